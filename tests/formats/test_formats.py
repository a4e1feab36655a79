"""The published vectors of the pages here (see `write`), and the schemas: read as a stranger would."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest

from counterseal.audit.checks.privacy_checks import terms_of
from counterseal.audit.events import EVENTS, ReceiptFile, open_event
from counterseal.errors import CountersealError
from counterseal.runtime.config.privacy import RunPrivacy
from counterseal.runtime.delivery import Answer, Delivery
from counterseal.runtime.founding.admissions import Admission
from counterseal.runtime.server.correspondence.receipts import read_answer
from counterseal.runtime.transports.frames import read_frame, write_frame
from counterseal.trust import dsse
from counterseal.trust.canonical import canonical, parse
from counterseal.trust.documents import open_document
from counterseal.trust.keys.signing import VerifyingKey
from counterseal.trust.terms import PrivacyTerms
from counterseal.trust.tickets import open_ticket

from . import write

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "formats"


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "tests" / "vectors" / name / "vectors.json").read_text())
    return found


CANONICAL, TICKET, EVENT, DELIVERY = (load(name) for name in ("canonical", "ticket", "events", "delivery"))
ADMISSION = load("admission")
ENVELOPES = CANONICAL["envelopes"]


def refused(code: str) -> Any:
    """Expect a typed error of this code."""

    class Expect:
        def __enter__(self) -> None: ...

        def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
            assert isinstance(error, CountersealError), f"not refused, or by a foreign error: {error!r}"
            assert error.code == code, error
            return True

    return Expect()


def named(cases: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.get("name", case.get("text", "")))


@named(CANONICAL["good"])
def test_canonical(case: dict[str, Any]) -> None:
    form = case["canonical"].encode()
    assert canonical(parse(case["text"].encode())) == form
    assert canonical(parse(form)) == form


@named(CANONICAL["bad"])
def test_not_strict(case: dict[str, Any]) -> None:
    with refused(case["code"]):
        parse(case["text"].encode())


def test_envelope() -> None:
    key = VerifyingKey("ed25519", bytes.fromhex(ENVELOPES["public"]))
    envelope = dsse.read(ENVELOPES["good"].encode())
    assert envelope.verify(key, kind=ENVELOPES["kind"]) == ENVELOPES["payload"].encode()


@named(ENVELOPES["bad"])
def test_bad_envelope(case: dict[str, Any]) -> None:
    key = VerifyingKey("ed25519", bytes.fromhex(ENVELOPES["public"]))
    with refused(case["code"]):
        dsse.read(case["envelope"].encode()).verify(key, kind=ENVELOPES["kind"])


@named(TICKET["cases"])
def test_ticket(case: dict[str, Any]) -> None:
    key = VerifyingKey("ed25519", bytes.fromhex(TICKET["public"]))
    place = {name: TICKET[name] for name in ("federation", "charter", "site", "now")}
    if case["code"] is None:
        signed = open_ticket(case["ticket"].encode(), key, **place)
        assert (case["name"] != "good") or signed.digest == TICKET["digest"]
        return
    with refused(case["code"]):
        open_ticket(case["ticket"].encode(), key, **place)


@named(TICKET["agreement"])
def test_a_ticket_has_the_terms_of_its_run(case: dict[str, Any]) -> None:
    config = {"name": "run-1", "privacy": case["run_privacy"]}
    terms = None if case["privacy"] is None else PrivacyTerms.from_json(case["privacy"], what="ticket")
    of_run = terms_of(config, case["site"])
    assert (terms == (of_run if case["kind"] == "train" else None)) == case["agrees"]
    if case["run_privacy"] is not None:
        assert RunPrivacy.model_validate_json(json.dumps(case["run_privacy"])).of(case["site"]) == of_run


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_has_a_good_leaf(name: str) -> None:
    row = EVENT["good"][name]
    key = VerifyingKey("ed25519", bytes.fromhex(EVENT["public"][row["actor"]]))
    signed = open_event(row["leaf"].encode(), key)
    assert type(signed.document) is EVENTS[name]
    assert signed.document.payload() == dsse.read(row["leaf"].encode()).payload


@named(EVENT["bad"])
def test_bad_leaf(case: dict[str, Any]) -> None:
    key = VerifyingKey("ed25519", bytes.fromhex(EVENT["public"]["server"]))
    with refused(case["code"]):
        open_event(case["leaf"].encode(), key)


@named(EVENT["receipts"])
def test_a_receipt_says_what_it_cost(case: dict[str, Any]) -> None:
    key = VerifyingKey("ed25519", bytes.fromhex(EVENT["public"]["east"]))
    if case["code"] is None:
        found = open_event(case["leaf"].encode(), key).document
        assert isinstance(found, ReceiptFile) and found.spending is not None
        assert found.payload() == dsse.read(case["leaf"].encode()).payload
        return
    with refused(case["code"]):
        open_event(case["leaf"].encode(), key)


@named(ADMISSION["cases"])
def test_admission(case: dict[str, Any]) -> None:
    key = VerifyingKey("ed25519", bytes.fromhex(ADMISSION["public"]))
    if case["code"] is None:
        found = open_document(Admission, case["record"].encode(), key).document
        assert found.payload() == dsse.read(case["record"].encode()).payload
        assert found.statement.document.identity == found.decision.identity
        return
    with refused(case["code"]):
        open_document(Admission, case["record"].encode(), key)


@named(DELIVERY["deliveries"])
def test_delivery(case: dict[str, Any]) -> None:
    raw = json.dumps(case["delivery"]).encode()
    if case["code"] is None:
        assert json.loads(canonical(Delivery.from_json(parse(raw)).model_dump(mode="json"))) == case["delivery"]
        return
    with refused(case["code"]):
        Delivery.from_json(parse(raw))


@named(DELIVERY["answers"])
def test_answer(case: dict[str, Any]) -> None:
    raw = canonical(case["answer"])
    if case["code"] is None:
        padded = raw.ljust(DELIVERY["stored"]["length"])
        assert read_answer(padded) == read_answer(raw) == Answer.from_json(case["answer"])
        return
    with refused(case["code"]):
        read_answer(raw)


@pytest.mark.parametrize("case", DELIVERY["frames"], ids=lambda case: repr(bytes.fromhex(case["bytes"])[:12]))
def test_frames(case: dict[str, Any]) -> None:
    source, found = io.BytesIO(bytes.fromhex(case["bytes"])), []

    def read() -> None:
        while (frame := read_frame(source)) is not None:
            found.append(frame)

    if case["code"] is not None:
        with refused(case["code"]):
            read()
        return
    read()
    assert [one.hex() for one in found] == case["frames"]
    sink = io.BytesIO()
    for frame in found:
        write_frame(sink, frame)
    assert sink.getvalue().hex() == case["bytes"]


@pytest.mark.parametrize("name", write.all_vectors())
def test_vectors_are_up_to_date(name: str) -> None:
    written = write.written(write.all_vectors()[name])
    assert (ROOT / "tests" / "vectors" / name / "vectors.json").read_text() == written, (
        "python -m counterseal.tests.formats.write"
    )


def test_the_page_of_events_is_up_to_date() -> None:
    text = write.PAGE.read_text()
    assert text == write.page(text), "python -m counterseal.tests.formats.write"


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_schemas", DOCS / "make_schemas.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = maker()


def test_schemas_are_up_to_date() -> None:
    wanted = {name: MAKER.text(schema) for name, schema in MAKER.schemas().items()}
    found = {path.name: path.read_text() for path in (DOCS / "schemas").glob("*.json")}
    assert found == wanted, "python docs/formats/make_schemas.py"


@pytest.mark.parametrize("name", MAKER.schemas())
def test_schema_is_a_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads((DOCS / "schemas" / name).read_text()))


def validator(name: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads((DOCS / "schemas" / f"{name}.json").read_text()))


def test_good_vectors_fit_the_schemas_and_odd_ones_do_not() -> None:
    for row in EVENT["good"].values():
        validator("event").validate(json.loads(dsse.read(row["leaf"].encode()).payload))
    for case in TICKET["cases"]:
        payload = json.loads(dsse.read(case["ticket"].encode()).payload)
        assert validator("ticket").is_valid(payload) == case["fits_schema"], case["name"]
    for case in ADMISSION["cases"]:
        payload = json.loads(dsse.read(case["record"].encode()).payload)
        assert validator("admission").is_valid(payload) == case["fits_schema"], case["name"]
    for case in EVENT["receipts"]:
        payload = json.loads(dsse.read(case["leaf"].encode()).payload)
        assert validator("event").is_valid(payload) == (case["code"] is None), case["name"]
    for case in DELIVERY["deliveries"]:
        assert validator("delivery").is_valid(case["delivery"]) == (case["code"] is None), case["name"]
    for case in DELIVERY["answers"]:
        assert validator("answer").is_valid(case["answer"]) == (case["code"] is None), case["name"]


def test_every_page_is_in_the_index_and_short() -> None:
    index = (DOCS / "README.md").read_text()
    for path in DOCS.glob("*.md"):
        if path.name != "README.md":
            assert f"({path.name})" in index, path.name
            assert len(path.read_text().splitlines()) < 105, f"{path.name} is long for a specification"
    for path in (DOCS / "schemas").glob("*.json"):
        assert f"(schemas/{path.name})" in index, path.name
