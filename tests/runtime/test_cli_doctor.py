"""`counterseal site doctor`: a healthy site passes, and each thing that can be wrong fails alone, with what to do."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from counterseal.privacy.ledger.ledger import Ledger
from counterseal.privacy.ledger.path_anchor import PathAnchor
from counterseal.runtime.cli import doctor_state
from counterseal.runtime.cli.doctor import Check, examine, judged
from counterseal.runtime.cli.doctor_privacy import PrivacyChecks
from counterseal.runtime.cli.doctor_store import StoreChecks
from counterseal.runtime.config import load_site
from counterseal.runtime.site.state import SiteState
from counterseal.tests.privacy.ledger_world import order
from counterseal.tests.runtime.cli_world import LOADER, SITES, World, call, document, execute, require_clean
from counterseal.trust.policy.policy import default_text

NAMES = (
    "keys",
    "charter",
    "clock",
    "roster: this site",
    "roster: the server",
    "store",
    "state: folder",
    "state: lock, sync, put-once",
    "loader",
    "device",
    "policy",
    "extras",
    "ledger",
    "ledger: anchor",
    "ledger: population",
    "exact updates",
)


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("doctor"))


@pytest.fixture
def site(founded: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of a site in a copy of the federation that a test may harm."""
    shutil.copytree(founded.folder / "federation", tmp_path / "federation")
    monkeypatch.setattr(doctor_state, "_MEMORY", frozenset())  # where tests run, temporary folders may be in memory
    monkeypatch.setattr(doctor_state, "_NETWORK", frozenset())
    (tmp_path / "federation" / "store").mkdir(exist_ok=True)
    path = tmp_path / "federation" / founded.site().relative_to(founded.folder / "federation")
    assert path.is_file()
    return path


def _change(path: Path, **changes: object) -> None:
    value = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**value, **changes}))


def _failed(site: Path, **options: object) -> dict[str, Check]:
    found = list(examine(load_site(site), **options))  # type: ignore[arg-type]
    assert tuple(check.name for check in found if check.name != "store: clock") == NAMES
    return {check.name: check for check in found if check.ok is False}


def test_a_healthy_site(site: Path) -> None:
    before = sorted(site.parent.rglob("*"))
    result = call("site", "doctor", "--config", site)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("OK  ") == len(NAMES) - 1 and "FAIL" not in result.stdout
    (told,) = [line for line in result.stdout.splitlines() if line.startswith("??")]
    assert "unprotected: true" in told
    assert "train x [20, 6] float32" in result.stdout
    assert sorted(site.parent.rglob("*")) == before  # nothing is left behind


def test_json_is_one_document_although_the_plugin_prints(site: Path) -> None:
    done = execute("site", "doctor", "--config", site, "--json")
    require_clean(done, 0)
    found = json.loads(done.stdout)
    assert found["ok"] and [check["name"] for check in found["checks"]] == list(NAMES)
    assert "a plug-in that prints" in done.stderr
    for secret in site.parent.parent.parent.rglob("passphrase"):
        assert secret.read_text().strip() not in done.stdout + done.stderr


def _open_keys(site: Path) -> None:
    (site.parent / "keys").chmod(0o755)


def _wrong_passphrase(site: Path) -> None:
    (site.parent / "passphrase").write_text("another-passphrase-entirely")


def _others_keys(site: Path) -> None:
    other = site.parent.parent / SITES[1]
    for name in ("keys", "passphrase"):
        target = site.parent / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        copy = shutil.copytree if (other / name).is_dir() else shutil.copy2
        copy(other / name, target)


def _no_charter(site: Path) -> None:
    shutil.rmtree(site.parent / "charter")


def _unsigned(site: Path) -> None:
    next((site.parent / "charter" / "signatures").iterdir()).unlink()


def _roster(site: Path, identity: str) -> None:
    path = site.parent / "roster.yaml"
    value = yaml.safe_load(path.read_text())
    for member in value["members"]:
        if member["identity"] == identity:
            member["status"] = "removed"
    path.write_text(yaml.safe_dump(value))


def _changed_loader(site: Path) -> None:
    loader = site.parent / "loader.py"
    loader.write_text(LOADER + "# edited after it was approved\n")
    value = yaml.safe_load(site.read_text())["loader"]
    _change(site, loader={**value, "file": str(loader)})


def _no_store(site: Path) -> None:
    _change(site, store={"kind": "directory", "path": "nowhere"})


def _no_such_service(site: Path) -> None:
    _change(site, store={"kind": "s3", "bucket": "bucket", "endpoint_url": "https://counterseal.invalid"})


def _nobody_answers(site: Path) -> None:
    store = {"kind": "s3", "bucket": "bucket", "endpoint_url": "http://127.0.0.1:9", "insecure_loopback": True}
    _change(site, store=store)


def _no_tls(site: Path) -> None:
    """A port that speaks something else: nothing that it says is read as an answer."""
    _change(site, store={"kind": "s3", "bucket": "bucket", "endpoint_url": f"https://127.0.0.1:{_dated_store(0)}"})


def _open_state(site: Path) -> None:
    state = load_site(site).state
    state.mkdir(exist_ok=True)
    state.chmod(0o755)


def _no_device(site: Path) -> None:
    _change(site, device="cuda:63")


@pytest.mark.parametrize(
    ("harm", "name", "mend"),
    [
        (_open_keys, "keys", "chmod 700"),
        (_wrong_passphrase, "keys", "passphrase"),
        (_others_keys, "charter", "statement"),
        (_no_charter, "charter", "folder"),
        (_unsigned, "charter", "charter-signature"),
        (lambda site: _roster(site, SITES[0]), "roster: this site", "roster"),
        (lambda site: _roster(site, "server"), "roster: the server", "roster"),
        (_no_store, "store", "Create it"),
        (_no_such_service, "store", "endpoint_url"),
        (_nobody_answers, "store", "proxy"),
        (_no_tls, "store", "scheme"),
        (_open_state, "state: folder", "chmod 700"),
        (_changed_loader, "loader", "approve"),
        (_no_device, "device", "CUDA"),
    ],
)
def test_each_harm_fails_alone_and_says_what_to_do(
    site: Path, harm: Callable[[Path], None], name: str, mend: str
) -> None:
    harm(site)
    failed = _failed(site)
    assert set(failed) == {name}
    assert mend in failed[name].mend
    result = call("site", "doctor", "--config", site, "--json")
    assert result.exit_code == 1 and document(result)["ok"] is False


class _Dated(BaseHTTPRequestHandler):
    """A store that refuses everything, at its own time."""

    ahead = 0.0

    def do_GET(self) -> None:
        self.send_response_only(403)
        self.send_header("Date", formatdate(time.time() + self.ahead, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


_STORES: list[ThreadingHTTPServer] = []


def _dated_store(ahead: float) -> int:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Dated", (_Dated,), {"ahead": ahead}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _STORES.append(server)
    return int(server.server_address[1])


@pytest.fixture(scope="module", autouse=True)
def _closed_stores() -> Iterator[None]:
    yield
    for server in _STORES:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("ahead", "ok"), [(0, True), (-200, True), (400, False), (-400, False)])
def test_the_store_s_clock(site: Path, ahead: float, ok: bool) -> None:
    port = _dated_store(ahead)
    place = {"kind": "s3", "bucket": "b-1", "endpoint_url": f"http://127.0.0.1:{port}", "insecure_loopback": True}
    _change(site, store=place)
    found = {name: judged(name, check) for name, check in StoreChecks(load_site(site).store).each()}
    assert found["store"].ok and "WITHOUT TLS" in found["store"].what
    assert found["store: clock"].ok is ok, found
    assert ("NTP" in found["store: clock"].mend) is not ok


PRIVACY = {
    "ledger": {"path": "ledger/ledger.sqlite", "anchor": {"kind": "path", "path": "anchor/mark"}},
    "population": "patients",
    "dataset": "data",
    "unit": "patient",
}


def _with_ledger(site: Path, **changes: object) -> Ledger:
    """Make the site's ledger: a population with a cap, and whose data these are."""
    for name in ("ledger", "anchor"):
        (site.parent / name).mkdir()
    _change(site, privacy={**PRIVACY, **changes}, unprotected=False)
    ledger = Ledger.create(site.parent / "ledger" / "ledger.sqlite", PathAnchor(site.parent / "anchor" / "mark"))
    ledger.set_population("patients", unit="patient", adjacency="add-remove", epsilon=8.0, delta=1e-5)
    ledger.map_dataset("data", "patients")
    return ledger


def _told(site: Path) -> dict[str, Check]:
    """What is said of privacy; the other checks load torch."""
    found = [judged(name, check) for name, check in PrivacyChecks(load_site(site)).each()]
    assert tuple(check.name for check in found) == NAMES[-6:]
    return {check.name: check for check in found}


def test_a_healthy_private_site(site: Path) -> None:
    ledger = _with_ledger(site)
    before = {path: path.stat().st_mtime_ns for path in sorted(site.parent.rglob("*")) if path.is_file()}
    told = _told(site)
    assert [name for name, check in told.items() if check.ok is not True] == []
    assert "3 entries" in told["ledger"].what and "newest entry" in told["ledger: anchor"].what
    assert "epsilon 0 of 8 at delta 1e-05 is reserved, 8 is left" in told["ledger: population"].what
    assert "refuses" in told["exact updates"].what
    assert {path: path.stat().st_mtime_ns for path in before} == before
    ledger.reserve_run(order(releases=190))
    assert _told(site)["ledger: population"].ok is None, "little is left"


def test_an_anchor_that_a_crash_left_behind_is_told_and_not_moved(site: Path) -> None:
    ledger = _with_ledger(site)
    mark = site.parent / "anchor" / "mark"
    old = mark.read_bytes()
    ledger.reserve_run(order(releases=2))
    mark.write_bytes(old)
    check = _told(site)["ledger: anchor"]
    assert check.ok and "as a crash leaves it" in check.what
    assert mark.read_bytes() == old


def _no_ledger(site: Path) -> None:
    shutil.rmtree(site.parent / "ledger")
    (site.parent / "ledger").mkdir()


def _damaged_ledger(site: Path) -> None:
    path = site.parent / "ledger" / "ledger.sqlite"
    data = bytearray(path.read_bytes())
    at = data.rindex(b'"patients"')
    data[at + 1 : at + 2] = b"P"
    path.write_bytes(data)


def _old_ledger(site: Path) -> None:
    path = site.parent / "ledger" / "ledger.sqlite"
    old = path.read_bytes()
    ledger = Ledger.open(path, PathAnchor(site.parent / "anchor" / "mark"))
    ledger.reserve_run(order(releases=1))
    path.write_bytes(old)


def _unmounted_anchor(site: Path) -> None:
    shutil.rmtree(site.parent / "anchor")


def _no_anchor_named(site: Path) -> None:
    _change(site, privacy={**PRIVACY, "ledger": {"path": "ledger/ledger.sqlite"}})


def _private(**changes: object) -> Callable[[Path], None]:
    return lambda site: _change(site, privacy={**PRIVACY, **changes})


def _spent(site: Path) -> None:
    ledger = Ledger.open(site.parent / "ledger" / "ledger.sqlite", PathAnchor(site.parent / "anchor" / "mark"))
    ledger.reserve_run(order(releases=200))
    ledger.set_population("patients", unit="patient", adjacency="add-remove", epsilon=1.0, delta=1e-5)


def _broken_policy(site: Path) -> None:
    (site.parent / "site.cedar").write_text("permit (principal, action, resource)")
    _change(site, policy="site.cedar")


def _policy_that_others_write(site: Path) -> None:
    (site.parent / "site.cedar").write_bytes(default_text())
    (site.parent / "site.cedar").chmod(0o666)
    _change(site, policy="site.cedar")


@pytest.mark.parametrize(
    ("harm", "names", "mend"),
    [
        (_no_ledger, {"ledger"}, "ledger create"),
        (_damaged_ledger, {"ledger"}, "backup"),
        (_old_ledger, {"ledger: anchor"}, "newest copy"),
        (_unmounted_anchor, {"ledger: anchor"}, "Mount"),
        (_no_anchor_named, {"ledger: anchor"}, "ledger: anchor:"),
        (_private(population="others"), {"ledger: population"}, "ledger cap"),
        (_private(dataset="others"), {"ledger: population"}, "ledger map"),
        (_private(unit="record"), {"ledger: population"}, "privacy: unit"),
        (_spent, {"ledger: population"}, "ledger close"),
        (_broken_policy, {"policy"}, ""),
        (_policy_that_others_write, {"policy"}, "chmod"),
        (lambda site: _change(site, privacy=None), {"exact updates"}, "unprotected: true"),
    ],
)
def test_each_harm_to_privacy_fails_alone_and_says_what_to_do(
    site: Path, harm: Callable[[Path], None], names: set[str], mend: str
) -> None:
    _with_ledger(site)
    harm(site)
    failed = {name: check for name, check in _told(site).items() if check.ok is False}
    assert set(failed) == names
    for check in failed.values():
        assert mend in check.mend and check.what


def test_a_policy_that_is_probably_not_meant_is_told(site: Path) -> None:
    (site.parent / "site.cedar").write_text('@id("all") permit (principal, action, resource);')
    _change(site, policy="site.cedar")
    check = _told(site)["policy"]
    assert check.ok is None and "counterseal policy check" in check.what


@pytest.mark.parametrize(("module", "extra"), [("cedarpy", "policy"), ("dp_accounting", "dp")])
def test_a_missing_extra_is_named(site: Path, module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_ledger(site)
    monkeypatch.setitem(sys.modules, module, None)
    check = _told(site)["extras"]
    assert check.ok is False and f"counterseal[{extra}]" in check.mend


@pytest.mark.parametrize("now", [0, 1_000_000_000])
def test_a_clock_that_is_years_behind(site: Path, now: int) -> None:
    assert "clock" in _failed(site, clock=lambda: now)


def test_keys_that_end_soon_are_told(site: Path) -> None:
    later = time.time() + 350 * 86_400
    clock = next(check for check in examine(load_site(site), clock=lambda: later) if check.name == "clock")
    assert clock.ok is None and "rotate" in clock.what


def test_a_site_at_work_is_not_disturbed(site: Path) -> None:
    settings = load_site(site)
    state = SiteState(settings.state)
    try:
        assert _failed(site) == {}
    finally:
        state.close()


@pytest.mark.parametrize(("kind", "word"), [("_MEMORY", "empties"), ("_NETWORK", "lock")])
def test_a_disk_that_does_not_keep_what_it_promised(
    site: Path, kind: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_state, kind, frozenset({doctor_state._filesystem(site.parent)}))
    assert word in _failed(site)["state: folder"].what


def test_a_lock_that_does_not_exclude_is_found(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert "locks" in _failed(site)["state: lock, sync, put-once"].what


def test_a_folder_that_lets_a_name_be_taken_twice_is_found(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_state, "create_file", lambda path, data, *, step: Path(path).write_bytes(data))
    assert "twice" in _failed(site)["state: lock, sync, put-once"].what


def test_a_state_folder_that_cannot_be_written(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13), "state")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    assert "Permission denied" in _failed(site)["state: lock, sync, put-once"].what
