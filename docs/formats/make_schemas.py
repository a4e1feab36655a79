# ruff: noqa: TID251
"""Write docs/formats/schemas/*.json, the JSON Schemas (2020-12) of all that is JSON: `python docs/formats/make_schemas.py`.

A schema says what a reader takes at most: names, types, ranges, patterns. What it cannot say (signatures, digests, order of
recipients, the sum of a grant's parts) stands in the pages beside it; so a document that fits the schema may still be refused.
"""

from __future__ import annotations

import json
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from counterseal.audit.events import EVENTS
from counterseal.runtime.config import json_schema
from counterseal.runtime.delivery import Answer, Delivery
from counterseal.runtime.founding.admissions import Admission
from counterseal.runtime.founding.draft import Request
from counterseal.runtime.stores.grants import Grant
from counterseal.trust.blob.manifest import Manifest
from counterseal.trust.charter.model import Charter
from counterseal.trust.documents import Document, Model
from counterseal.trust.enrolment import SealedEnrolment
from counterseal.trust.group import Roster
from counterseal.trust.keys.index import FolderIndex
from counterseal.trust.keys.statement import KeyStatement
from counterseal.trust.mailbox import KINDS
from counterseal.trust.tickets import Ticket

__all__ = ["DOCUMENTS", "FOLDER", "OTHERS", "schemas"]

FOLDER = Path(__file__).parent / "schemas"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"

DOCUMENTS: tuple[type[Document], ...] = (Ticket, Manifest, KeyStatement, Charter, Admission, *KINDS.values())
"""What is signed, by itself: the payload of an envelope of this kind."""

OTHERS: dict[str, type[Model]] = {
    "delivery": Delivery,
    "answer": Answer,
    "grant": Grant,
    "sealed-enrolment": SealedEnrolment,
    "key-folder": FolderIndex,
    "roster": Roster,
    "founding": Request,
}
"""What is not signed, or is written by people."""


def schemas() -> dict[str, dict[str, Any]]:
    """Return file name -> schema."""
    found = {document.KIND: document.model_json_schema() for document in DOCUMENTS}
    found |= {name: model.model_json_schema() for name, model in OTHERS.items()}
    found["event"] = TypeAdapter(reduce(or_, EVENTS.values())).json_schema()
    found |= {f"{which}-config": json_schema(which) for which in ("run", "site", "server")}
    return {f"{name}.json": {"$schema": _DRAFT, **schema} for name, schema in sorted(found.items())}


def text(schema: dict[str, Any]) -> str:
    """Return a schema as it is written."""
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every schema, and remove what is none any more."""
    FOLDER.mkdir(exist_ok=True)
    wanted = schemas()
    for path in FOLDER.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, schema in wanted.items():
        (FOLDER / name).write_text(text(schema))


if __name__ == "__main__":
    main()
