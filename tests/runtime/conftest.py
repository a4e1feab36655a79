"""What the tests of `runtime` share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from counterseal.runtime.stores.local_s3 import LocalS3


@pytest.fixture(scope="session")
def local_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalS3]:
    """One SeaweedFS for the session."""
    with LocalS3(tmp_path_factory.mktemp("seaweed") / "server") as server:
        yield server
