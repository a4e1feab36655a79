"""charter.yaml: what people write becomes the same bytes for everybody; mistakes are shown by line and field."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.tests.trust.charter_world import (
    FEDERATION,
    NOW,
    ORIGIN,
    charter,
    first_statement,
    founded,
    keys_of,
    plan,
    statement_of,
)
from counterseal.trust.canonical import canonical
from counterseal.trust.charter.model import Charter
from counterseal.trust.charter.yaml_file import TEMPLATE, dump_charter, load_charter_draft
from counterseal.trust.errors import CharterError, MalformedError
from counterseal.trust.strict_yaml import parse_yaml, read_regular_file

TEXT = TEMPLATE.format(federation=FEDERATION, title="Two hospitals", log_origin=ORIGIN, group="heart-group")
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
PARTIES = ("server", "site-1", "site-2")


def _draft(folder: Path, text: str = TEXT) -> Path:
    (folder / "keys").mkdir(exist_ok=True)
    for party in PARTIES:
        path = folder / "keys" / f"{party}.key-statement.counterseal.json"
        path.write_bytes(first_statement(party).raw + b"\n")
    path = folder / "charter.yaml"
    path.write_text(text)
    return path


def _line(text: str, beginning: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if line.strip().startswith(beginning))


def test_the_template_is_a_charter(tmp_path: Path) -> None:
    made = load_charter_draft(_draft(tmp_path), now=NOW)
    assert made.sites == ("site-1", "site-2")
    assert made.members[1].statement == first_statement("site-1").raw.decode()
    assert made.arithmetic.intersects_in_honest()


def test_round_trip(tmp_path: Path) -> None:
    for made in (charter(), load_charter_draft(_draft(tmp_path), now=NOW)):
        path = tmp_path / "again.yaml"
        path.write_text(dump_charter(made))
        assert load_charter_draft(path, now=NOW).payload() == made.payload()


_TITLES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn", "Zl", "Zp"], exclude_characters=BIDI),
    min_size=1,
    max_size=60,
)


@given(
    title=_TITLES
    | st.sampled_from(["no", "1e5", "0x1F", "12:30", "null", "~", "2026-11-22", "007", "- a", "a: b # c", "<<"]),
    weight=st.floats(1e-300, 1e300, allow_nan=False),
    lag=st.integers(1, 10_000),
)
def test_any_title_and_number_survives_the_round_trip(title: str, weight: float, lag: int) -> None:
    value = plan(title=title, cosign_lag=lag)
    value["members"][1]["weight"] = weight
    made = Charter.from_json(value)
    read = parse_yaml(dump_charter(made).encode(), file="charter.yaml").value
    assert Charter.from_json(read).payload() == made.payload()


# (what is replaced, by what, the line's beginning, the field or words that the error must show)
MISTAKES: list[tuple[str, str, str, str]] = [
    ("version: 1 ", "version: one ", "version:", "version"),
    ("version: 1 ", "version: 1.5 ", "version:", "version"),
    ("version: 1 ", "version: '1' ", "version:", "version"),
    ("version: 1 ", "version: 2 ", "previous:", "previous: version 2 must name"),
    ("suite: MLKEM768_X25519", "suite: RSA", "suite:", "suite"),
    ("log_origin: heart", "log_origin: https://heart", "log_origin:", "log_origin"),
    ("authorizer: roster", "authorizer: ldap", "authorizer: ldap", "group.authorizer"),
    ("authorizer: roster", "authorizer: globus", "id: heart-group", "group.id"),
    ("id: heart-group\n  authorizer: roster", "id: 0a1b2c3d-0000-4000-8000-000000000001\n  authorizer: globus",
     "- identity: server", "members.0.identity: server is not a Globus identity"),
    ("roles: [server]", "roles: [sevrer]", "roles: [sevrer]", "members.0.roles.0"),
    ("weight: 1.0  ", "weight: -1   ", "weight: -1", "members.1.weight"),
    ("weight: 1.0  ", "weight: 1_000 ", "weight: 1_000", "members.1.weight"),
    ("weight: 1.0  ", "weight: .inf ", "weight: .inf", "members.1.weight"),
    ("weight: 1.0  ", "weight: 1e999 ", "weight: 1e999", "number too large"),
    ("weight: 1.0  ", "weigth: 1.0 ", "weigth: 1.0", "members.1.weigth"),
    ("identity: site-2", "identity: site-1", "- identity: site-1", "members.2.identity"),
    ("  k: 2 ", "  k: 1 ", "k: 1", "quorum.k: 2k > n + f does not hold"),
    ("  f: 1 ", "  f: 0 ", "f: 0", "quorum.f"),
    ("  f: 1 ", "  f: 3 ", "f: 3", "quorum.f"),
    ("  k: 2 ", "  k: 2\n  k: 1 ", "k: 1", "the key 'k' a second time"),
    ("server: server\n", "server: site-1\n", "server: site-1", "server: the member with the role server is server"),
    ("auditor: null", "auditor: site-2", "auditor:", "auditor: site-2 is not a member with the role"),
    ("commit_before_upload: true", "commit_before_upload: yes", "commit_before_upload", "commit_before_upload"),
    ("cosign_lag: 4", "cosign_lag: 007", "cosign_lag", "leading zeros"),
    ("cosign_lag: 4", "cosign_lag: 99999999999999999999", "cosign_lag", "2^53"),
    ("  norm_bound: 100.0", "  norm_bound: !!float 100", "norm_bound", "a tag"),
    ("quorum:\n", "quorum: &q\n", "quorum: &q", "an anchor"),
    ("quorum:\n", "<<: {}\nquorum:\n", "<<", "merge key"),
    ("cosign_lag: 4", "? [cosign_lag]\n: 4", "? [cosign_lag]", "a key that is not a name"),
    ("cosign_lag: 4", "cosign_lag: [[[[[[[[[[[[[[[[[[[[4]]]]]]]]]]]]]]]]]]]]", "cosign_lag", "nested deeper"),
    ("cosign_lag: 4", "cosign_lag: [4", "commit_before_upload", "not YAML"),
    ("approved_code: []", "approved_code: []\n---\nversion: 2", "---", "a second document"),
    ("site-1.key-statement.counterseal.json", "nobody.json", "statement: keys/nobody.json", "members.1.statement"),
    ("keys/site-1.key", "../keys/site-1.key", "statement: ../keys", "below the charter's folder"),
    ("keys/site-1.key", "/keys/site-1.key", "statement: /keys", "below the charter's folder"),
    ("keys/site-1.key-statement.counterseal.json", "keys", "statement: keys\n".strip(), "members.1.statement"),
    ("keys/site-1.key-statement", "keys/site-2.key-statement", "statement: keys/site-2", "members.2.statement"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "beginning", "words"), MISTAKES, ids=lambda value: value[:24])
def test_mistakes_are_shown_by_line_and_field(tmp_path: Path, old: str, new: str, beginning: str, words: str) -> None:
    text = TEXT.replace(old, new, 1)
    assert text != TEXT
    path = _draft(tmp_path, text)
    with pytest.raises(CharterError) as caught:
        load_charter_draft(path, now=NOW)
    assert words in caught.value.what
    lines = [number for number, line in enumerate(text.splitlines(), 1) if line.strip().startswith(beginning)]
    assert caught.value.where in {f"charter.yaml:{number}" for number in lines}


def test_the_second_of_two_equal_names_is_the_one_shown(tmp_path: Path) -> None:
    text = TEXT.replace("identity: site-2", "identity: site-1")
    with pytest.raises(CharterError) as caught:
        load_charter_draft(_draft(tmp_path, text), now=NOW)
    lines = [number for number, line in enumerate(text.splitlines(), 1) if "identity: site-1" in line]
    assert caught.value.where == f"charter.yaml:{lines[1]}"


def test_a_missing_field_is_shown_where_it_belongs(tmp_path: Path) -> None:
    text = "\n".join(line for line in TEXT.splitlines() if "update_bytes" not in line)
    with pytest.raises(CharterError, match=r"limits\.update_bytes: Field required") as caught:
        load_charter_draft(_draft(tmp_path, text), now=NOW)
    assert caught.value.where == f"charter.yaml:{_line(text, 'limits:')}"


def test_a_statement_that_has_run_out_is_shown_at_its_line(tmp_path: Path) -> None:
    path = _draft(tmp_path)
    stale = statement_of("site-2", keys_of("site-2"), not_before=1, not_after=2).raw
    (tmp_path / "keys" / "site-2.key-statement.counterseal.json").write_bytes(stale)
    with pytest.raises(CharterError, match=r"members\.2\.statement: site-2: valid from 1 to 2") as caught:
        load_charter_draft(path, now=NOW)
    assert caught.value.where == f"charter.yaml:{_line(TEXT, 'statement: keys/site-2')}"


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real").name)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _huge(path: Path) -> None:
    path.write_bytes(b"x" * 70_000)


def _binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


@pytest.mark.parametrize("spoil", [_link, _pipe, _huge, _binary])
def test_statement_files_that_are_not_taken(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = _draft(tmp_path)
    spoil(tmp_path / "keys" / "site-1.key-statement.counterseal.json")
    with pytest.raises(CharterError, match=r"members\.1\.statement: .* is not a key-statement file") as caught:
        load_charter_draft(path, now=NOW)
    assert caught.value.where == f"charter.yaml:{_line(TEXT, 'statement: keys/site-1')}"


def test_a_draft_of_an_amendment_may_keep_statements_that_ran_out(tmp_path: Path) -> None:
    old = founded()
    path = tmp_path / "next.yaml"
    value = old.charter.model_dump(mode="json") | {"version": 2, "previous": old.digest}
    path.write_text(dump_charter(Charter.from_json(value)))
    later = NOW + 390 * 86_400
    with pytest.raises(CharterError, match="valid from"):
        load_charter_draft(path, now=later)
    assert load_charter_draft(path, now=later, known=old.statements).version == 2


@pytest.mark.parametrize(("text", "value"), [
    ("a: no", "no"), ("a: on", "on"), ("a: 12:30", "12:30"), ("a: 2026-11-22", "2026-11-22"), ("a: 0x1F", "0x1F"),
    ("a: 0o17", "0o17"), ("a: .nan", ".nan"), ("a: True", "True"), ("a: true", True), ("a: null", None), ("a: ~", None),
    ("a:", None), ("a: 1", 1), ("a: -0", 0), ("a: 1e3", 1000.0), ("a: .5", 0.5), ("a: '1'", "1"), ('a: "true"', "true"),
    ("a: |\n  x\n", "x\n"),
])  # fmt: skip
def test_plain_scalars_mean_what_json_readers_expect(text: str, value: Any) -> None:
    found = parse_yaml(text.encode(), file="f").value["a"]
    assert (found, type(found)) == (value, type(value))


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_no_text_makes_the_reader_raise_anything_else(text: str) -> None:
    try:
        value = parse_yaml(text.encode("utf-8", "surrogatepass"), file="f").value
    except MalformedError as error:
        assert error.where.startswith("f")
    else:
        canonical(value)  # whatever is read is JSON


def test_a_bomb_of_aliases_is_refused_at_its_first_line() -> None:
    bomb = "a: &a [x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)},*{chr(97 + i)}]\n" for i in range(20)
    )
    with pytest.raises(MalformedError) as caught:
        parse_yaml(bomb.encode(), file="f")
    assert caught.value.where == "f:1"


def test_limits_of_size(tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match="over the limit"):
        parse_yaml(b"#" * 100, file="f", limit=99)
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    assert len(read_regular_file(path, limit=100, what="file")) == 100
    with pytest.raises(MalformedError, match="more than 99"):
        read_regular_file(path, limit=99, what="file")
