"""A charter that contradicts itself cannot be built, and the error names the field."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.tests.trust.charter_world import NOW, charter, first_statement, keys_of, member, plan, statement_of
from counterseal.trust.canonical import canonical
from counterseal.trust.charter.members import verify_members
from counterseal.trust.charter.model import Charter
from counterseal.trust.charter.vkey import WitnessKey
from counterseal.trust.documents import parse_document
from counterseal.trust.errors import CharterError, MalformedError, TrustError, WeakKeyError
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.signing import SoftwareSigner

Change = Callable[[dict[str, Any]], object]


def vkey(name: str = "witness.example.org", public: bytes | None = None, kind: int = 4) -> str:
    data = bytes([kind]) + (SoftwareSigner.generate().public.public if public is None else public)
    digits = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4].hex()
    return f"{name}+{digits}+{base64.b64encode(data).decode()}"


def test_a_plain_charter_holds_and_says_what_it_leaves_open() -> None:
    made = charter()
    assert made.sites == ("anna", "bert", "cleo", "dora")
    assert made.cosigners == frozenset(made.sites)
    assert made.arithmetic.intersects_in_honest()
    assert made.weights == dict.fromkeys(made.sites, 1.0)
    assert [caveat.code for caveat in made.warnings()] == ["no_auditor", "roster"]
    assert parse_document(Charter, made.payload()) == made


def _set(*path: str | int, to: Any) -> Change:
    def change(value: dict[str, Any]) -> None:
        target: Any = value
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = to

    return change


def _drop(*path: str | int) -> Change:
    def change(value: dict[str, Any]) -> None:
        target: Any = value
        for part in path[:-1]:
            target = target[part]
        del target[path[-1]]

    return change


def _twin(value: dict[str, Any]) -> None:
    value["members"].append(member("anna"))


def _twin_in_capitals(value: dict[str, Any]) -> None:
    value["members"].append(member("anna") | {"identity": "ANNA", "statement": "another"})


def _two_servers(value: dict[str, Any]) -> None:
    value["members"].append(member("server2", "server"))


_REST = "-0000-4000-8000-000000000001"

ATTACKS: dict[str, tuple[Change, str]] = {
    "an unknown field": (_set("quorums", to=1), "quorums"),
    "no quorum": (_drop("quorum"), "quorum"),
    "version zero": (_set("version", to=0), "version"),
    "version as text": (_set("version", to="1"), "version"),
    "a first charter with a past": (_set("previous", to="0" * 64), "previous"),
    "an amendment without a past": (_set("version", to=2), "previous"),
    "a digest in capitals": (_set("previous", to="A" * 64), "previous"),
    "a plus sign in the origin": (_set("log_origin", to="a+b"), "log_origin"),
    "a space in the origin": (_set("log_origin", to="a b"), "log_origin"),
    "a scheme in the origin": (_set("log_origin", to="https://a.example"), "log_origin"),
    "a line break in the origin": (_set("log_origin", to="a.example\n"), "log_origin"),
    "a title that runs backwards": (_set("title", to="Fed\u202eration"), "title"),
    "an escape sequence in a name": (_set("members", 1, "name", to="\x1b[2J"), "members.1.name"),
    "a Globus group by name": (_set("group", to={"id": "heart", "authorizer": "globus"}), "group.id"),
    "a Globus group in capitals": (_set("group", to={"id": "ABCDEF00" + _REST, "authorizer": "globus"}), "group.id"),
    "a Globus group of names": (_set("group", to={"id": "abcdef00" + _REST, "authorizer": "globus"}), "members.0.identity"),
    "an unknown authorizer": (_set("group", "authorizer", to="ldap"), "group.authorizer"),
    "an unknown suite": (_set("suite", to="X25519"), "suite"),
    "a name twice": (_twin, "members.5.identity"),
    "a name twice in capitals": (_twin_in_capitals, "members.5.identity"),
    "another's key statement": (
        _set("members", 2, "statement", to=first_statement("anna").raw.decode()), "members.2.statement"),
    "a role twice": (_set("members", 1, "roles", to=["site", "site"]), "members.1.roles"),
    "no role": (_set("members", 1, "roles", to=[]), "members.1.roles"),
    "a site without weight": (_drop("members", 1, "weight"), "members.1.weight"),
    "a weight of zero": (_set("members", 1, "weight", to=0), "members.1.weight"),
    "a negative weight": (_set("members", 1, "weight", to=-1.0), "members.1.weight"),
    "a weighed server": (_set("members", 0, "weight", to=1.0), "members.0.weight"),
    "two servers": (_two_servers, "members"),
    "no server": (_set("members", 0, "roles", to=["auditor"]), "members"),
    "another is the server": (_set("server", to="anna"), "server"),
    "an auditor from nowhere": (_set("auditor", to="zoe"), "auditor"),
    "an auditor without the role": (_set("auditor", to="anna"), "auditor"),
    "k over n": (_set("quorum", "k", to=5), "quorum.k"),
    "f over n": (_set("quorum", "f", to=5), "quorum.f"),
    "f of zero": (_set("quorum", "f", to=0), "quorum.f"),
    "a quorum that can be split": (_set("quorum", "k", to=2), "quorum.k"),
    "more liars than k bears": (_set("quorum", "f", to=2), "quorum.k"),
    "unwitnessed for no reason": (_set("quorum", "unwitnessed", to=True), "quorum.unwitnessed"),
    "a witness that is no vkey": (_set("quorum", "external_witness", to="w+1+2"), "quorum.external_witness"),
    "a log's vkey as witness": (_set("quorum", "external_witness", to=vkey(kind=1)), "quorum.external_witness"),
    "a weak witness": (_set("quorum", "external_witness", to=vkey(public=bytes(32))), "quorum.external_witness"),
    "no norm bound": (_drop("limits", "norm_bound"), "limits.norm_bound"),
    "an infinite norm bound": (_set("limits", "norm_bound", to="Infinity"), "limits.norm_bound"),
    "a limit of zero": (_set("limits", "update_bytes", to=0), "limits.update_bytes"),
    "negative staleness": (_set("max_staleness", to=-1), "max_staleness"),
    "yes for true": (_set("commit_before_upload", to="yes"), "commit_before_upload"),
    "a code digest twice": (_set("approved_code", to=["0" * 64, "0" * 64]), "approved_code"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_contradictions_name_their_field(name: str) -> None:
    change, field = ATTACKS[name]
    value = plan()
    change(value)
    with pytest.raises(MalformedError) as caught:
        Charter.from_json(value)
    assert f"{field}:" in caught.value.what


def test_infinity_is_not_even_json() -> None:
    with pytest.raises(MalformedError):
        Charter.from_json(
            plan(limits={"update_bytes": 1, "norm_bound": math.inf, "ticket_seconds": 1, "round_seconds": 1})
        )


def _self_audit(value: dict[str, Any]) -> None:
    value["members"][0]["roles"] = ["server", "auditor"]
    value["auditor"] = "server"


def test_the_server_cannot_audit_itself() -> None:
    value = plan()
    _self_audit(value)
    with pytest.raises(MalformedError, match=r"auditor: the server's operator"):
        Charter.from_json(value)


@pytest.mark.parametrize(("sites", "quorum", "holds"), [
    (1, {"k": 1, "f": 1}, False),
    (1, {"k": 1, "f": 1, "unwitnessed": True}, True),
    (1, {"k": 1, "f": 1, "external_witness": vkey()}, True),
    (2, {"k": 2, "f": 1}, True),
    (2, {"k": 1, "f": 1}, False),
    (3, {"k": 2, "f": 1}, False),
    (3, {"k": 3, "f": 1}, True),
    (3, {"k": 3, "f": 2}, True),
    (4, {"k": 3, "f": 1}, True),
    (4, {"k": 3, "f": 2}, False),
    (4, {"k": 2, "f": 1, "external_witness": vkey()}, True),
    (4, {"k": 2, "f": 1, "unwitnessed": True}, True),
    (4, {"k": 5, "f": 1, "unwitnessed": True}, False),  # nothing excuses a quorum that can never be reached
])  # fmt: skip
def test_quorum_terms(sites: int, quorum: dict[str, Any], holds: bool) -> None:
    value = plan(sites=("anna", "bert", "cleo", "dora")[:sites], quorum=quorum)
    if not holds:
        with pytest.raises(MalformedError, match=r"quorum\."):
            Charter.from_json(value)
        return
    codes = {caveat.code for caveat in Charter.from_json(value).warnings()}
    assert ("unwitnessed" in codes) == quorum.get("unwitnessed", False)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_no_splittable_quorum_is_ever_accepted_silently(n: int, k: int, f: int) -> None:
    sites = [{"identity": f"s{i}", "name": "S", "roles": ["site"], "weight": 1, "statement": f"{i}"} for i in range(n)]
    server = {"identity": "server", "name": "S", "roles": ["server"], "statement": "x"}
    try:
        made = Charter.from_json(plan(members=[server, *sites], quorum={"k": k, "f": f}, sites=()))
    except MalformedError:
        assert not (k <= n and 2 * k > n + f)
    else:
        assert k <= n and f <= n and 2 * k > n + f
        assert "unwitnessed" not in {caveat.code for caveat in made.warnings()}


def test_a_globus_group_is_a_caveat_of_its_own() -> None:
    """Fresh keys: a statement says whose it is, and a member of a Globus group is a UUID."""
    names = [f"0a1b2c3d-0000-4000-8000-00000000000{number}" for number in range(5)]
    value = plan(group={"id": names[0], "authorizer": "globus"}, server=names[0])
    value["members"] = [member(names[0], "server"), *(member(name) for name in names[1:])]
    value["members"][0]["statement"] = statement_of(names[0], MemberKeys.generate(operator=True)).raw.decode()
    assert [caveat.code for caveat in Charter.from_json(value).warnings()] == ["no_auditor", "globus"]


def test_every_concession_is_a_caveat() -> None:
    value = plan(
        suite="P384",
        commit_before_upload=False,
        server_validates_updates=True,
        quorum={"k": 1, "f": 1, "unwitnessed": True},
        auditor="anna",
    )
    value["members"][1]["roles"] = ["site", "auditor"]
    codes = {caveat.code for caveat in Charter.from_json(value).warnings()}
    assert codes == {"unwitnessed", "server_validates", "auditor_is_site", "upload_first", "roster", "not_post_quantum"}


@pytest.mark.parametrize(("text", "error"), [
    ("", MalformedError),
    ("name", MalformedError),
    ("name+00000000+", MalformedError),
    (vkey("a b"), MalformedError),
    (vkey("ä"), MalformedError),
    (vkey() + "=", MalformedError),
    (vkey()[:-4] + "AAA=", MalformedError),
    (vkey(kind=6), MalformedError),
    (vkey(public=bytes(31)), MalformedError),
    (vkey(public=b"\x01" + bytes(31)), WeakKeyError),
], ids=["empty", "name", "no key", "space", "umlaut", "padding", "tail", "kind", "short", "small order"])  # fmt: skip
def test_bad_witness_keys(text: str, error: type[TrustError]) -> None:
    with pytest.raises(error):
        WitnessKey.parse(text)


def test_a_witness_key_with_another_names_hash() -> None:
    good = vkey("w.example")
    assert WitnessKey.parse(good).name == "w.example"
    with pytest.raises(MalformedError, match="hash"):
        WitnessKey.parse(good.replace("w.example", "v.example"))


def _statements(change: Change) -> None:
    value = plan()
    change(value)
    verify_members(Charter.from_json(value), now=NOW)


_STATEMENT_ATTACKS: dict[str, tuple[Callable[[], Change], str, str]] = {
    "another's name": (
        lambda: _set("members", 1, "statement", to=first_statement("zoe").raw.decode()), "members.1", "that of zoe"),
    "another federation": (
        lambda: _set("members", 1, "statement", to=statement_of("anna", federation="lung").raw.decode()),
        "members.1", "federation"),
    "another log": (
        lambda: _set("members", 1, "statement", to=statement_of("anna", log_origin="x.example").raw.decode()),
        "members.1", "log"),
    "run out": (
        lambda: _set("members", 1, "statement", to=statement_of("anna", not_before=1, not_after=2).raw.decode()),
        "members.1", "valid from"),
    "another suite": (
        lambda: _set("members", 1, "statement", to=statement_of("anna", keys_of("anna", 7, "P384")).raw.decode()),
        "members.1", "suite"),
    "a site with a checkpoint key": (
        lambda: _set("members", 1, "statement", to=statement_of("anna", keys_of("server", 2)).raw.decode()),
        "members.1", "is not the server"),
    "a server without one": (
        lambda: _set("members", 0, "statement", to=statement_of("server", keys_of("zoe", 2)).raw.decode()),
        "members.0", "no checkpoint key"),
    "one key, two members": (
        lambda: _set("members", 2, "statement", to=statement_of("bert", keys_of("anna")).raw.decode()),
        "members.2", "is also that of anna"),
    "no envelope": (lambda: _set("members", 1, "statement", to="hello"), "members.1", "JSON"),
    "one bit changed": (
        lambda: _set("members", 1, "statement", to=_flip(first_statement("anna").raw.decode())), "members.1", "anna"),
}  # fmt: skip


def _flip(text: str) -> str:
    place = text.index('"sig":"') + 9
    return text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]


@pytest.mark.parametrize("name", _STATEMENT_ATTACKS)
def test_statements_that_do_not_hold(name: str) -> None:
    change, where, what = _STATEMENT_ATTACKS[name]
    with pytest.raises(CharterError) as caught:
        _statements(change())
    assert caught.value.where == f"{where}.statement"
    assert what in caught.value.what


def test_the_witness_is_nobody_inside() -> None:
    value = plan(quorum={"k": 2, "f": 1, "external_witness": vkey(public=keys_of("cleo").cosigner.public.public)})
    with pytest.raises(CharterError, match="external witness"):
        verify_members(Charter.from_json(value), now=NOW)


def test_the_digest_is_that_of_the_canonical_bytes() -> None:
    made = charter()
    assert hashlib.sha256(canonical(made.model_dump(mode="json"))).hexdigest() == made.digest
