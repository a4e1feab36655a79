"""The environment digest follows what is installed."""

from __future__ import annotations

from importlib import metadata

import pytest

from counterseal.runtime.environment import environment, environment_digest


def fresh() -> str:
    environment.cache_clear()
    environment_digest.cache_clear()
    return environment_digest()


def test_it_names_interpreter_and_every_distribution() -> None:
    found = environment()
    assert found["implementation"] == "cpython"
    distributions = found["distributions"]
    assert isinstance(distributions, dict)
    assert any(name.startswith("cryptography==") for name in distributions)
    assert fresh() == fresh()


def test_another_record_is_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fresh()
    monkeypatch.setattr(metadata.PathDistribution, "read_text", _patched(metadata.PathDistribution.read_text))
    try:
        assert fresh() != before
    finally:
        monkeypatch.undo()
        assert fresh() == before


def _patched(real: object) -> object:
    def read_text(self: metadata.PathDistribution, name: str) -> str | None:
        text: str | None = real(self, name)  # type: ignore[operator]
        return f"{text}evil.py,sha256=00,1\n" if name == "RECORD" and "cryptography/fernet.py" in (text or "") else text

    return read_text
