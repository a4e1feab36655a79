"""The registered function, as the endpoint runs it: from its source text, with nothing but the standard library."""

from __future__ import annotations

import ast
import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

from counterseal.runtime.delivery import DELIVERY_LIMIT
from counterseal.runtime.transports.compute.service import function_code

Deliver = Callable[[str], str]


@pytest.fixture
def deliver() -> Deliver:
    """The function as a site gets it: unpacked under the list that docs/endpoint.md gives a site."""
    site: Any = ComputeSerializer(allowed_deserializer_types=[JSONData, PureSourceTextInspect])
    (code,) = site.unpack_buffers(function_code())
    made: Deliver = site.deserialize(code)
    return made


def told(text: str) -> tuple[str, bytes | str]:
    found = json.loads(text)
    assert len(found) == 1
    (word, value), *_ = found.items()
    return word, base64.b64decode(value) if word == "answer" else value


def launcher(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch, mode: int = 0o700) -> Path:
    path = folder / "deliver"
    path.write_text(text)
    path.chmod(mode)
    monkeypatch.setenv("COUNTERSEAL_SITE", str(path))
    return path


def pack(delivery: bytes) -> str:
    return base64.b64encode(delivery).decode()


def test_delivery_and_answer_pass_unchanged(deliver: Deliver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher(tmp_path, "#!/bin/sh\nexec cat\n", monkeypatch)
    for data in (b"{}", bytes(range(256)), b"x" * DELIVERY_LIMIT):
        assert told(deliver(pack(data))) == ("answer", data)


@pytest.mark.parametrize(
    ("text", "mode", "code"),
    [
        ("#!/bin/sh\necho '{}'; exit 3\n", 0o700, "site_died"),
        ("#!/bin/sh\nkill -9 $$\n", 0o700, "site_died"),
        ("#!/bin/sh\ntrue\n", 0o700, "site_died"),
        (f"#!/bin/sh\nhead -c {DELIVERY_LIMIT + 1} /dev/zero\n", 0o700, "site_died"),
        ("#!/no/such/interpreter\n", 0o700, "site_not_started"),
        ("no program at all", 0o600, "site_not_started"),
    ],
)
def test_what_goes_wrong_at_the_launcher_is_one_word(
    deliver: Deliver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, mode: int, code: str
) -> None:
    launcher(tmp_path, text, monkeypatch, mode)
    assert told(deliver(pack(b"{}"))) == ("failure", code)


@pytest.mark.parametrize("path", [None, "", "deliver", "/no/such/file", "/"])
def test_no_launcher_is_one_word(deliver: Deliver, monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    if path is None:
        monkeypatch.delenv("COUNTERSEAL_SITE", raising=False)
    else:
        monkeypatch.setenv("COUNTERSEAL_SITE", path)
    assert told(deliver(pack(b"{}"))) == ("failure", "site_not_configured")


@pytest.mark.parametrize("delivery", ["?", "YQ", "Y\nQ==", None, 7])
def test_a_damaged_delivery_is_one_word(deliver: Deliver, delivery: Any) -> None:
    assert told(deliver(delivery)) == ("failure", "delivery_damaged")


def test_what_the_launcher_complains_about_stays(
    deliver: Deliver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    launcher(tmp_path, "#!/bin/sh\necho PATIENT-42 >&2\nexit 1\n", monkeypatch)
    assert "PATIENT" not in deliver(pack(b"{}"))
    assert "PATIENT-42" in capfd.readouterr().err


def test_it_needs_nothing_but_the_standard_library() -> None:
    (code,) = ComputeSerializer.unpack_buffers(function_code())
    header, _, text = code.partition("\n")
    name, _, source = text.partition(":")
    assert (header, name) == ("st", "deliver")
    tree = ast.parse(source, feature_version=(3, 9))
    imported = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {one.partition(".")[0] for one in imported} <= sys.stdlib_module_names
    program = source + "\nprint(deliver('?'))\n"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"failure": "delivery_damaged"}
