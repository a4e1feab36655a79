"""Write the vectors of canonical, ticket, events, delivery and admission, and the table in events.md. The same every time.

python -m counterseal.tests.formats.write
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from counterseal.audit.events import EVENTS
from counterseal.runtime.delivery import ANSWER_BYTES, Answer, Delivery, Fault, LeafProof, Witnessed
from counterseal.trust import dsse
from counterseal.trust.canonical import canonical
from counterseal.trust.tickets import Ticket, Work

from .samples import CHARTER, FEDERATION, NOW, SERVER, digest, event, events_table, signed, signer

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"
PAGE = ROOT / "docs" / "formats" / "events.md"
MARK = "<!-- table -->\n"
Row = dict[str, Any]


def canonical_vectors() -> Row:
    """Return texts with their canonical form, texts to refuse, and envelopes of both sorts."""
    spellings = [
        '{ "b": 1, "a": [true, null, "\\u00e9"] }', "1.0", "-0.0", "1e2", "1E-7", "0.000001", "1e16", "4.788107380207481e16",
        "1e21", "9007199254740991", '"\\u2028\\/\\u0000"', '{"\\ud83d\\ude00":1,"\\ufb33":2}', "[[[]]]", '""',
    ]  # fmt: skip
    refused = {
        "a name twice": '{"a":1,"a":1}', "not a number of JSON": "NaN", "beyond the largest double": "1e400",
        "an integer that is no double": "9007199254740993", "another spelling of a double": "10000000000000001",
        "half a surrogate pair": '"\\ud800"', "65 deep": "[" * 65 + "]" * 65, "two values": "1 2", "a comma too many": "[1,]",
        "a byte order mark": "\ufeff1", "a control character": '"\t"', "single quotes": "'a'", "nothing": "",
    }  # fmt: skip
    return {
        "good": [{"text": text, "canonical": canonical(json.loads(text)).decode()} for text in spellings],
        "bad": [{"name": name, "text": text, "code": "malformed"} for name, text in refused.items()],
        "envelopes": envelopes(),
    }


def envelopes() -> Row:
    """Return one good envelope, its key, and bad ones."""
    key = signer(SERVER)
    raw = dsse.sign(canonical({"a": 1}), kind="ticket", signer=key).decode()
    good = json.loads(raw)
    signature = good["signatures"][0]
    loose = base64.b64encode(base64.b64decode(good["payload"])).decode().rstrip("=")
    bad: list[tuple[str, Any, str]] = [
        ("a member too many", {**good, "extra": 1}, "malformed"),
        ("no signature", {**good, "signatures": []}, "malformed"),
        ("two signatures", {**good, "signatures": [signature, signature]}, "malformed"),
        (
            "a key id in upper case",
            {**good, "signatures": [{**signature, "keyid": signature["keyid"].upper()}]},
            "malformed",
        ),
        ("another type", {**good, "payloadType": "application/json"}, "malformed"),
        ("base64 of the URL alphabet", {**good, "payload": "_-8="}, "malformed"),
        ("base64 without padding", {**good, "payload": loose}, "malformed"),
        ("base64 with stray bits", {**good, "payload": "eyJhIjoxfR=="}, "malformed"),
        ("a line break in base64", {**good, "payload": good["payload"] + "\n"}, "malformed"),
        ("another kind", json.loads(dsse.sign(canonical({"a": 1}), kind="event", signer=key)), "signature"),
        ("another key", json.loads(dsse.sign(canonical({"a": 1}), kind="ticket", signer=signer("east"))), "signature"),
        ("another payload", {**good, "payload": base64.b64encode(b'{"a":2}').decode()}, "signature"),
        (
            "another key's id",
            {**good, "signatures": [{**signature, "keyid": signer("east").public.key_id}]},
            "signature",
        ),
    ]
    return {
        "kind": "ticket",
        "public": key.public.public.hex(),
        "good": raw,
        "payload": '{"a":1}',
        "bad": [{"name": name, "envelope": json.dumps(value), "code": code} for name, value, code in bad],
    }


def ticket_vectors() -> Row:
    """Return tickets that a site of this place takes, and that it refuses."""
    ticket = Ticket(
        federation=FEDERATION, charter=CHARTER, run="run-1", site="east", seq=4, version=3, parent=digest("model 3"),
        kind="train", work=Work(manifest=digest("manifest")), not_after=NOW + 600,
    )  # fmt: skip
    value = json.loads(ticket.payload())

    def raw(by: str = SERVER, form: str = "ticket", **changes: Any) -> str:
        return dsse.sign(canonical({**value, **changes}), kind=form, signer=signer(by)).decode()

    private = {**value, "privacy": DP_SGD}
    noised = {**value, "privacy": OUTPUT}
    laplace = {**OUTPUT, "mechanism": "output-laplace", "delta": 0}
    last: Row = {"kind": "witness", "seq": 2**40, "work": {"manifest": None, "seed": 2**32 - 1}, "not_after": NOW}
    beyond = {name for name, _ in disagreeing(laplace)}
    table = [
        ("good", raw(), None),
        ("good, at the edges", raw(**last), None),
        ("signed by a site", raw(by="east"), "signature"),
        ("an event's envelope", raw(form="event"), "signature"),
        ("another federation", raw(federation="heart"), "ticket_misaddressed"),
        ("another charter", raw(charter=digest("other")), "ticket_misaddressed"),
        ("another site", raw(site="west"), "ticket_misaddressed"),
        ("expired", raw(not_after=NOW - 1), "ticket_expired"),
        ("seq 0", raw(seq=0), "malformed"),
        ("seq beyond 2^40", raw(seq=2**40 + 1), "malformed"),
        ("a kind that nobody knows", raw(kind="order"), "malformed"),
        ("recipients in a ticket", raw(recipients=["0" * 64]), "malformed"),
        ("a parent in upper case", raw(parent=digest("model 3").upper()), "malformed"),
        ("a version as text", raw(version="3"), "malformed"),
        ("good, dp-sgd", raw(**private), None),
        ("good, the whole site", raw(**noised), None),
        ("good, Laplace noise", raw(privacy=laplace), None),
        ("an epsilon in the terms", raw(privacy={**DP_SGD, "epsilon": 1}), "malformed"),
        ("terms without a mechanism", raw(privacy={**DP_SGD, "mechanism": None}), "malformed"),
        ("a mechanism that nobody knows", raw(privacy={**DP_SGD, "mechanism": "dp-ftrl"}), "malformed"),
        ("no steps", raw(privacy={**DP_SGD, "steps": 0}), "malformed"),
        ("no releases", raw(privacy={**DP_SGD, "releases": 0}), "malformed"),
        ("a sampling rate of 0", raw(privacy={**DP_SGD, "sampling_rate": 0}), "malformed"),
        ("a sampling rate above 1", raw(privacy={**DP_SGD, "sampling_rate": 1.5}), "malformed"),
        ("a noise multiplier of 0", raw(privacy={**DP_SGD, "noise_multiplier": 0}), "malformed"),
        ("a negative clip norm", raw(privacy={**DP_SGD, "clip_norm": -1}), "malformed"),
        ("a number as text", raw(privacy={**DP_SGD, "clip_norm": "1"}), "malformed"),
        *((name, raw(privacy=terms), "malformed") for name, terms in disagreeing(laplace)),
        ("a run with a path in it", raw(run="../run-1"), "malformed"),
        ("a seed of 2^32", raw(work={"manifest": None, "seed": 2**32}), "malformed"),
    ]
    return {
        "public": signer(SERVER).public.public.hex(),
        "federation": FEDERATION, "charter": CHARTER, "site": "east", "now": NOW, "digest": ticket.digest,
        "cases": [
            {"name": name, "ticket": text, "code": code, "fits_schema": code != "malformed" or name in beyond}
            for name, text, code in table
        ],
        "agreement": agreement(),
    }  # fmt: skip


DP_SGD: Row = {
    "mechanism": "dp-sgd", "unit": "patient", "adjacency": "add-remove", "clip_norm": 1, "noise_multiplier": 1.5, "delta": 1e-6,
    "releases": 5, "steps": 20, "sampling_rate": 0.01, "normaliser": 64,
}  # fmt: skip
"""Terms in their one spelling: every field is there."""

OUTPUT: Row = {
    "mechanism": "output-gaussian", "unit": "site", "adjacency": "any", "clip_norm": 0.5, "noise_multiplier": 2, "delta": 1e-5,
    "releases": 3, "steps": 1, "sampling_rate": 1, "normaliser": 1,
}  # fmt: skip


def disagreeing(laplace: Row) -> list[tuple[str, Row]]:
    """Return terms whose fields are well formed one by one, and not together."""
    return [
        ("dp-sgd for any two datasets", {**DP_SGD, "adjacency": "any"}),
        ("dp-sgd for the whole site", {**DP_SGD, "unit": "site"}),
        ("dp-sgd with a delta of 0", {**DP_SGD, "delta": 0}),
        ("output noise for a record", {**OUTPUT, "unit": "record"}),
        ("output noise for neighbours that differ in one record", {**OUTPUT, "adjacency": "replace-one"}),
        ("output noise in two steps", {**OUTPUT, "steps": 2}),
        ("output noise with a sampling rate", {**OUTPUT, "sampling_rate": 0.5}),
        ("Gaussian noise with a delta of 0", {**OUTPUT, "delta": 0}),
        ("Laplace noise with a delta", {**laplace, "delta": 1e-5}),
    ]


def agreement() -> list[Row]:
    """Return tickets' terms beside a run's: a site takes the ticket only where they are the same."""
    own = {**DP_SGD, "sampling_rate": 0.02}
    run = {"terms": DP_SGD, "sites": {"west": own}, "counts": None}
    rows: list[tuple[str, Row | None, str, str, Row | None, bool]] = [
        ("the terms of all", run, "east", "train", DP_SGD, True),
        ("the terms of this site", run, "west", "train", own, True),
        ("another site's terms", run, "west", "train", DP_SGD, False),
        ("fewer steps than the run's", run, "east", "train", {**DP_SGD, "steps": 19}, False),
        ("no terms in a private run", run, "east", "train", None, False),
        ("terms in a run without", None, "east", "train", DP_SGD, False),
        ("neither has terms", None, "east", "train", None, True),
        ("work that releases nothing has none", run, "east", "evaluate", None, True),
        ("terms for work that releases nothing", run, "east", "evaluate", DP_SGD, False),
    ]
    return [
        {"name": name, "run_privacy": privacy, "site": site, "kind": kind, "privacy": terms, "agrees": agrees}
        for name, privacy, site, kind, terms, agrees in rows
    ]


def event_vectors() -> Row:
    """Return one leaf of every type, and leaves to refuse."""
    issue = json.loads(event("ticket.issue").payload())
    admit = json.loads(event("update.admit").payload())

    def raw(value: Row, by: str = SERVER, form: str = "event", **changes: Any) -> str:
        return dsse.sign(canonical({**value, **changes}), kind=form, signer=signer(by)).decode()

    bad = [
        ("a type that nobody knows", raw(issue, type="ticket.eat"), "malformed"),
        ("no type", raw({name: one for name, one in issue.items() if name != "type"}), "malformed"),
        ("another type's fields", raw(issue, type="round.open"), "malformed"),
        ("a norm in clear", raw(admit, norm=1.5), "malformed"),
        ("free text as a reason", raw(json.loads(event("run.end").payload()), outcome="went well"), "malformed"),
        ("free text as a code", raw(json.loads(event("round.abort").payload()), reason="It was late."), "malformed"),
        ("an actor with a bidirectional override", raw(issue, actor="ser\u202ever"), "malformed"),
        ("a negative time", raw(issue, time=-1), "malformed"),
        ("a version of 2^40 + 1", raw(issue, version=2**40 + 1), "malformed"),
        ("a commit of nothing", raw(json.loads(event("aggregate.commit").payload()), inputs=[]), "malformed"),
        ("a rejection without a reason", raw(json.loads(event("update.reject").payload()), reasons=[]), "malformed"),
        ("longer than a leaf", raw(json.loads(event("run.start").payload()), config={"x": "x" * 70_000}), "malformed"),
        ("a ticket's envelope", raw(issue, form="ticket"), "signature"),
        ("signed by another", raw(issue, by="stranger"), "signature"),
    ]
    told = json.loads(event("receipt.file").payload())
    allowed = {"policy": digest("policy"), "ledger": None, "releases": 0, "epsilon": None, "delta": None}
    spent = {**allowed, "ledger": digest("head"), "releases": 2, "epsilon": 1.875, "delta": 1.0002e-06}
    receipts: list[tuple[str, Row, str | None]] = [
        ("nothing was debited", {"spending": allowed}, None),
        ("two releases", {"spending": spent, "manifest": digest("manifest")}, None),
        ("Laplace noise has no delta", {"spending": {**spent, "delta": 0}}, None),
        ("no policy decided", {"spending": {**allowed, "policy": None}}, "malformed"),
        ("a field too many", {"spending": {**spent, "remaining": 6.125}}, "malformed"),
        ("the population's name", {"spending": {**spent, "population": "patients"}}, "malformed"),
        ("an epsilon without end", {"spending": {**spent, "epsilon": 1e13}}, "malformed"),
        ("an epsilon as text", {"spending": {**spent, "epsilon": "1.875"}}, "malformed"),
        ("a negative epsilon", {"spending": {**spent, "epsilon": -1}}, "malformed"),
        ("a delta of 1", {"spending": {**spent, "delta": 1}}, "malformed"),
        ("a head that is no digest", {"spending": {**spent, "ledger": "7"}}, "malformed"),
        ("a negative count", {"spending": {**spent, "releases": -1}}, "malformed"),
        ("half a release", {"spending": {**spent, "releases": 1.5}}, "malformed"),
    ]
    return {
        "public": {name: signer(name).public.public.hex() for name in (SERVER, "east")},
        "receipts": [
            {"name": name, "leaf": raw(told, by="east", **changes), "code": code} for name, changes, code in receipts
        ],
        "good": {name: {"actor": event(name).actor, "leaf": signed(name).decode()} for name in EVENTS},
        "bad": [{"name": name, "leaf": text, "code": code} for name, text, code in bad],
    }


def delivery_vectors() -> Row:
    """Return deliveries, answers and frames of both sorts. They are unsigned: a good one is only well formed."""
    ticket = json.loads(json.dumps(ticket_vectors()["cases"][0]["ticket"]))
    delivery = Delivery(
        ticket=ticket, checkpoint="fed.example/log\n2\nAAAA\n", consistency_from=0, consistency=(),
        leaves=(LeafProof(index=1, leaf=signed("ticket.issue").decode(), proof=(digest("sibling"),)),),
        witnessed=Witnessed(note="fed.example/log\n1\nAAAA\n", consistency=(digest("node"),)),
    )  # fmt: skip
    order = ticket_vectors()["digest"]
    metrics = base64.b64encode(b"one HPKE message: a sample, which nobody opens").decode()
    done = Answer(
        ticket=order, receipt=signed("receipt.file").decode(), metrics=metrics, etags=("1-398",), uploaded=True
    )
    refusal = Answer(ticket=order, fault=Fault(code="consistency_needed", witness_size=45))
    sent, said = (json.loads(canonical(one.model_dump(mode="json"))) for one in (delivery, done))
    leaf = sent["leaves"][0]
    odd: dict[str, Row] = {
                "a member too many": {"error": "text"},
                "metrics in clear": {"metrics": {"value": 1, "salt": "0" * 64}},
                "metrics in another alphabet": {"metrics": "_-8="},
                "free text as a fault": {"fault": {"code": "It did not work."}},
                "an etag of 201 characters": {"etags": ["x" * 201]},
                "uploaded as a number": {"uploaded": 1},
            }  # fmt: skip
    return {
        "deliveries": [{"name": "good", "delivery": sent, "code": None}] + [
            {"name": name, "delivery": {**sent, **changes}, "code": "malformed"} for name, changes in {
                "a member too many": {"url": "https://example.org"}, "a ticket as an object": {"ticket": json.loads(ticket)},
                "a negative size": {"consistency_from": -1}, "a hash of 63 digits": {"consistency": ["0" * 63]},
                "a hash in upper case": {"leaves": [{**leaf, "proof": ["F" * 64]}]}, "no leaves": {"leaves": None},
                "a grant for another kind of thing": {"grants": {"payload": {"key": "../x"}}},
            }.items()
        ],
        "answers": [{"name": "done", "answer": said, "code": None}, {"name": "refusal", "answer": json.loads(
            canonical(refusal.model_dump(mode="json"))), "code": None}] + [
            {"name": name, "answer": {**said, **changes}, "code": "malformed"} for name, changes in odd.items()
        ],
        "stored": {"answer": "done", "length": ANSWER_BYTES},
        "frames": [
            {"bytes": b"5\nhello0\n".hex(), "frames": [b"hello".hex(), ""], "code": None},
            {"bytes": "", "frames": [], "code": None},
            *({"bytes": data.hex(), "frames": [], "code": "transport"} for data in (
                b"05\nhello", b"+5\nhello", b"5\r\nhello", b"5hello", b"6\nhello", b"6000001\nx", b"\n", b"-1\n", b"5 \nhello")),
        ],
    }  # fmt: skip


def admission_vectors() -> Row:
    """Return records of a server's decisions about the enrolment of the mailbox's vectors."""
    enrolment = (VECTORS / "mailbox" / "plain.enrolment.counterseal.json").read_text()
    decision: Row = {
        "identity": "north", "role": "site", "allowed": True, "reason": "active", "source": "globus group", "time": NOW,
    }  # fmt: skip
    rules: Row = {"max_session_age": 28_800, "mfa": True, "service_account": False}
    shown: Row = {
        "identity_set": ["north", "north2"], "client": "application", "authenticated": "north2", "mfa": True, "session_age": 240,
    }  # fmt: skip
    value: Row = {
        "federation": FEDERATION, "server": SERVER, "time": NOW, "enrolment": enrolment, "decision": decision, "rules": rules,
        "shown": shown,
    }  # fmt: skip
    program = {**shown, "authenticated": None, "mfa": None, "session_age": None}
    no = {**decision, "allowed": False, "reason": "session_old", "source": "token"}

    def raw(by: str = SERVER, form: str = "admission", **changes: Any) -> str:
        return dsse.sign(canonical({**value, **changes}), kind=form, signer=signer(by)).decode()

    table: list[tuple[str, str, str | None]] = [
        ("admitted", raw(), None),
        ("a program", raw(rules={**rules, "service_account": True}, shown=program), None),
        ("a roster", raw(rules=None, shown=None), None),
        ("refused", raw(decision=no, shown=None), None),
        ("a token inside", raw(token="text"), "malformed"),
        ("a token in what it showed", raw(shown={**shown, "token": "text"}), "malformed"),
        ("decided about another", raw(decision={**decision, "identity": "east"}), "malformed"),
        ("of another federation", raw(federation="heart"), "malformed"),
        ("linked to others only", raw(shown={**shown, "identity_set": ["north2"]}), "malformed"),
        ("no identities", raw(shown={**shown, "identity_set": []}), "malformed"),
        ("no enrolment", raw(enrolment="{}"), "malformed"),
        ("another message", raw(enrolment=signed("key.enrol").decode()), "malformed"),
        ("free text as a reason", raw(decision={**decision, "reason": "Was here."}), "malformed"),
        ("a login in the future", raw(shown={**shown, "session_age": -1}), "malformed"),
        ("signed by a site", raw(by="east"), "signature"),
        ("an event's envelope", raw(form="event"), "signature"),
    ]
    beyond = {
        "decided about another",
        "of another federation",
        "linked to others only",
        "no enrolment",
        "another message",
    }
    return {
        "public": signer(SERVER).public.public.hex(),
        "cases": [
            {"name": name, "record": text, "code": code, "fits_schema": code != "malformed" or name in beyond}
            for name, text, code in table
        ],
    }


def all_vectors() -> dict[str, Row]:
    """Return folder name -> vectors."""
    return {
        "canonical": canonical_vectors(),
        "ticket": ticket_vectors(),
        "events": event_vectors(),
        "delivery": delivery_vectors(),
        "admission": admission_vectors(),
    }


def page(text: str) -> str:
    """Return events.md with the table as it is now."""
    head, _, rest = text.partition(MARK)
    return head + MARK + events_table() + MARK + rest.partition(MARK)[2]


def written(vectors: Row) -> str:
    """Return vectors as their file has them."""
    return json.dumps(vectors, indent=1) + "\n"


def main() -> None:
    """Write everything."""
    for name, vectors in all_vectors().items():
        (VECTORS / name).mkdir(parents=True, exist_ok=True)
        (VECTORS / name / "vectors.json").write_text(written(vectors))
    PAGE.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    main()
