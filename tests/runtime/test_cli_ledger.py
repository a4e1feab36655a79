"""The command line of the ledger: what an officer sees, sets and declares."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from counterseal.privacy.ledger.ledger import Ledger
from counterseal.privacy.ledger.path_anchor import PathAnchor
from counterseal.runtime.anchors.opening import load_ledger, open_anchor, open_ledger
from counterseal.runtime.errors import ConfigError
from counterseal.tests.privacy.ledger_world import digest, order, quick_folder, ticket
from counterseal.tests.runtime.cli_world import call, document

LEDGER = """ledger:
  path: disk/ledger.sqlite
  anchor: {kind: path, path: other/ledger.anchor}
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as found:
        (found / "other").mkdir()
        (found / "ledger.yaml").write_text(LEDGER)
        yield found


@pytest.fixture
def config(folder: Path) -> Path:
    """A ledger with a population, a dataset, and a run that drew two releases of ten."""
    path = folder / "ledger.yaml"
    assert call("ledger", "create", path).exit_code == 0
    made = call(
        "ledger", "cap", path, "patients", "--epsilon", 8, "--delta", 1e-5, "--unit", "patient", "--note", "board"
    )
    assert made.exit_code == 0, made.output
    assert call("ledger", "map", path, "data", "patients").exit_code == 0
    ledger = open_ledger(load_ledger(path))
    ledger.reserve_run(order(releases=10))
    for number in (1, 2):
        ledger.reserve(ticket(number))
        ledger.settle(digest(number), "released")
    return path


def test_show(config: Path) -> None:
    result = call("ledger", "show", config)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    row = next(line for line in lines if line.startswith("patients"))
    assert row.split()[:5] == ["patients", "patient,", "add-remove", "1e-05", "8"] and row.endswith("2  1 (1 open)")
    assert "  patients: heart run-1 site-a: 2 of 10 releases, open" in lines
    assert any("anchor" in line and "path: agrees" in line for line in lines)
    assert "own file system" in result.stderr


def test_show_as_json(config: Path) -> None:
    told = document(call("ledger", "show", config, "--json"))
    (patients,) = told["populations"]
    assert patients["spent"] < patients["reserved"] < patients["cap"] == 8
    assert patients["remaining"] + patients["reserved"] <= 8
    assert patients["runs"][0]["drawn"] == 2 and patients["runs"][0]["state"] == "open"
    assert told["datasets"] == {"data": "patients"} and told["entries"] == 8


def test_a_copy_is_shown_without_its_anchor(config: Path, folder: Path) -> None:
    copy = shutil.copy2(folder / "disk" / "ledger.sqlite", folder / "copy.sqlite")
    told = document(call("ledger", "show", copy, "--json"))
    assert "may be an old copy" in told["anchor"]
    assert "no anchor was asked" in call("ledger", "export", copy).stderr


def test_a_site_without_an_anchor_is_not_covered(folder: Path) -> None:
    path = folder / "plain.yaml"
    path.write_text("ledger: {path: plain.sqlite}\n")
    assert "NOT COVERED" in call("ledger", "create", path).stderr
    result = call("ledger", "show", path)
    assert "NOT COVERED" in result.stdout and "No population yet" in result.stdout


def test_cap_keeps_the_unit_and_counts_from_now_on(config: Path) -> None:
    told = document(call("ledger", "cap", config, "patients", "--epsilon", 9, "--delta", 1e-5, "--json"))
    assert told["body"]["unit"] == "patient" and told["body"]["epsilon"] == 9
    refused = call("ledger", "cap", config, "patients", "--epsilon", 9, "--delta", 1e-5, "--unit", "visit")
    assert refused.exit_code == 1 and "make another population" in refused.stderr
    refused = call("ledger", "cap", config, "patients", "--epsilon", -1, "--delta", 1e-5)
    assert refused.exit_code == 1 and "a cap is" in refused.stderr


def test_close_gives_back_what_no_ticket_drew(config: Path) -> None:
    before = document(call("ledger", "show", config, "--json"))["populations"][0]
    assert call("ledger", "close", config, "heart", "run-1", "site-a").exit_code == 0
    after = document(call("ledger", "show", config, "--json"))["populations"][0]
    assert after["reserved"] == after["spent"] == before["spent"] and after["runs"][0]["state"] == "closed"
    assert call("ledger", "close", config, "heart", "run-9", "site-a").exit_code == 1


def test_export_is_a_chain(config: Path, folder: Path) -> None:
    result = call("ledger", "export", config)
    previous = "0" * 64
    for line in result.stdout.splitlines():
        assert json.loads(line)["previous"] == previous
        previous = hashlib.sha256(line.encode()).hexdigest()
    assert f"8 entries, chain holds, head {previous}; the anchor knows this head" in result.stderr
    out = folder / "ledger.jsonl"
    assert call("ledger", "export", config, "--out", out).exit_code == 0
    assert out.read_text() == result.stdout
    again = call("ledger", "export", config, "--out", out)
    assert again.exit_code == 1 and "nothing is overwritten" in again.stderr


def test_plot(config: Path, folder: Path) -> None:
    assert call("ledger", "plot", config, "--out", folder / "budget.svg").exit_code == 0
    svg = (folder / "budget.svg").read_text()
    assert ElementTree.fromstring(svg).tag.endswith("svg") and "patients: " in svg and "of 8" in svg
    assert call("ledger", "plot", config, "--out", folder / "budget.png").exit_code == 0
    png = (folder / "budget.png").read_bytes()
    assert png.startswith(b"\x89PNG") and struct.unpack(">II", png[16:24]) == (1200, 675)
    assert call("ledger", "plot", config, "--out", folder / "budget.pdf").exit_code == 2


def test_a_plot_of_nothing_and_of_a_loss(folder: Path, config: Path) -> None:
    empty = folder / "plain.yaml"
    empty.write_text("ledger: {path: plain.sqlite}\n")
    call("ledger", "create", empty)
    assert call("ledger", "plot", empty, "--out", folder / "empty.svg").exit_code == 0
    call("ledger", "cap", empty, "p$x".replace("$", "-"), "--epsilon", 1, "--delta", 0)
    call("ledger", "recover", empty, "--accept-loss", "--note", "gone")
    assert call("ledger", "plot", empty, "--out", folder / "lost.svg").exit_code == 0
    assert "p-x: exhausted" in (folder / "lost.svg").read_text()


def test_an_old_copy_and_what_an_officer_declares(config: Path, folder: Path) -> None:
    file = folder / "disk" / "ledger.sqlite"
    older = shutil.copy2(file, folder / "older.sqlite")
    open_ledger(load_ledger(config)).reserve(ticket(3))
    shutil.copy2(older, file)
    refused = call("ledger", "show", config, "--json")
    assert refused.exit_code == 1
    assert document(refused)["error"]["code"] == "ledger_rollback"
    assert "--accept-loss" in document(refused)["error"]["mend"]
    assert call("ledger", "recover", config, "--note", "x").exit_code == 2
    assert call("ledger", "recover", config, "--note", "x", "--new-anchor", "--dataset", "d").exit_code == 2
    assert call("ledger", "recover", config, "--accept-loss").exit_code == 2, "it needs a note"
    assert call("ledger", "recover", config, "--new-anchor", "--note", "x").exit_code == 1
    assert call("ledger", "recover", config, "--accept-loss", "--note", "disk failed").exit_code == 0
    (patients,) = document(call("ledger", "show", config, "--json"))["populations"]
    assert patients["lost"] and patients["remaining"] == 0 and patients["runs"][0]["state"] == "lost"
    assert "all lost" in call("ledger", "show", config).stdout
    nothing = call("ledger", "recover", config, "--accept-loss", "--note", "again")
    assert nothing.exit_code == 1 and "nothing is lost" in nothing.stderr


def test_a_new_anchor(config: Path, folder: Path) -> None:
    (folder / "third").mkdir()
    config.write_text(LEDGER.replace("other/", "third/"))
    assert "the anchor is empty" in call("ledger", "show", config).stderr
    assert call("ledger", "recover", config, "--new-anchor", "--note", "token lost").exit_code == 0
    assert call("ledger", "show", config).exit_code == 0
    config.write_text("ledger: {path: disk/ledger.sqlite}\n")
    unnamed = call("ledger", "show", config)
    assert unnamed.exit_code == 3 and "none is named" in unnamed.stderr
    assert call("ledger", "recover", config, "--new-anchor", "--note", "x").exit_code == 2


def test_an_anchor_that_does_not_answer_is_the_environment(config: Path, folder: Path) -> None:
    (folder / "other").rename(folder / "unplugged")
    result = call("ledger", "show", config)
    assert result.exit_code == 3 and "Mount its disk" in result.stderr


def test_create_makes_one_once(config: Path, folder: Path) -> None:
    assert call("ledger", "create", config).exit_code == 1
    (folder / "disk" / "ledger.sqlite").unlink()
    refused = call("ledger", "create", config)
    assert refused.exit_code == 1 and "belongs to a ledger already" in refused.stderr
    missing = call("ledger", "show", config)
    assert missing.exit_code == 1 and "no ledger here" in missing.stderr


def test_files_that_say_nothing_of_a_ledger(folder: Path) -> None:
    path = folder / "other.yaml"
    path.write_text("ledgers: {path: x}\n")
    result = call("ledger", "show", path)
    assert result.exit_code == 1 and "other.yaml" in result.stderr
    path.write_text("ledger: {path: here.sqlite, anchor: {kind: path, path: here.anchor}}\n")
    beside = call("ledger", "create", path)
    assert beside.exit_code == 1 and "must not lie beside" in beside.stderr
    assert call("ledger", "show", folder / "nowhere.yaml").exit_code == 3


def test_a_site_names_its_ledger(folder: Path) -> None:
    path = folder / "site.yaml"
    site = (
        "identity: site-a@fed.example\ncharter: charter\nkeys: keys\npassphrase: {environment: P}\nstate: state\n"
        "store: {kind: directory, path: store}\nloader: {entry_point: blobs}\n"
    )
    path.write_text(site)
    with pytest.raises(ConfigError, match="no ledger"):
        load_ledger(path)
    block = "privacy:\n  population: patients\n  dataset: data\n  ledger:\n    path: disk/ledger.sqlite\n"
    path.write_text(site + block)
    named = load_ledger(path)
    assert named.path == folder / "disk" / "ledger.sqlite" and open_anchor(named) is None
    assert call("ledger", "create", path).exit_code == 0
    assert not open_ledger(named).anchored


def test_the_path_anchor_is_opened_as_configured(config: Path) -> None:
    named = load_ledger(config)
    anchor = open_anchor(named)
    assert isinstance(anchor, PathAnchor) and anchor.read() == Ledger.open(named.path, anchor).mark
