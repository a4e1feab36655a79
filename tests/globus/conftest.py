"""Fixtures of the tests about Globus."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from counterseal.tests.standin.cloud import Cloud


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """A stand-in for Globus Auth and Groups, fresh for each test."""
    with Cloud() as made:
        yield made
