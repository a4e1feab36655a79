"""charter.yaml: the charter as people write it.

The file has the charter's fields under their own names. A member's ``statement`` is the path of a key-statement file
beside the YAML (relative, no ``..``, no link), or the envelope itself as text beginning with a brace. Fields that have
a default may be left out; nothing else may, and an unknown name is an error. Every error says ``file:line``, the field,
and what to write instead.

Reading a draft verifies its key statements, because nobody should read out the digest of a charter that cannot hold.
`dump_charter` writes a file from which `load_charter_draft` makes the same bytes.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import ValidationError

from ..canonical import canonical
from ..errors import CharterError, MalformedError
from ..strict_yaml import Place, Yaml, parse_yaml, read_regular_file
from .members import Statements, verify_members
from .model import Charter

__all__ = ["TEMPLATE", "dump_charter", "load_charter_draft"]

_LIMIT = 4 << 20
_STATEMENT_LIMIT = 64 << 10

TEMPLATE = """\
# The charter of a federation. Read it aloud; every line binds every member.
version: 1                      # counts amendments
previous: null                  # the digest of the charter that this one amends
federation: {federation}
title: {title}
log_origin: {log_origin}        # a URL without https://, and the name of the log's key
group:
  id: {group}
  authorizer: roster            # roster (a file), or globus: id and every identity below are then UUIDs of Globus
suite: MLKEM768_X25519          # or P384, MLKEM1024_P384; no fallback
members:
  - identity: server
    name: The operator of the server
    roles: [server]
    statement: keys/server.key-statement.counterseal.json
  - identity: site-1
    name: The first institution
    roles: [site]
    weight: 1.0                 # any positive scale
    statement: keys/site-1.key-statement.counterseal.json
  - identity: site-2
    name: The second institution
    roles: [site]
    weight: 1.0
    statement: keys/site-2.key-statement.counterseal.json
server: server
auditor: null                   # a member who may open every update, or null
quorum:
  k: 2                          # cosignatures that make a checkpoint count; 2k > n + f
  f: 1                          # sites that may lie, the server operator's own among them
cosign_lag: 4
commit_before_upload: true
max_staleness: 4
limits:
  update_bytes: 1000000000
  norm_bound: 100.0             # L2 norm above which an update is rejected
  ticket_seconds: 3600
  round_seconds: 7200
aggregation:
  rule: fedavg
  clip_norm: 10.0
server_validates_updates: false # true: the server may evaluate updates in plaintext
dispute_window_seconds: 604800
approved_code: []               # digests of distributions that sites may run
"""
"""What `counterseal charter new` writes; the four names in braces are filled in."""


def load_charter_draft(path: Path, *, now: int, known: Statements = MappingProxyType({})) -> Charter:
    """Return the charter that the YAML file at ``path`` describes, its key statements verified.

    ``known`` are the statements in force, where the draft is an amendment.

    Raises:
        CharterError: at ``file:line``, naming the field.
        OSError: the file cannot be read.
    """
    try:
        tree = parse_yaml(read_regular_file(path, limit=_LIMIT, what="charter"), file=path.name, limit=_LIMIT)
    except MalformedError as error:
        raise CharterError(error.what, where=error.where, remedy=error.remedy) from error
    _include_statements(tree, path.parent)
    charter = _build(tree)
    try:
        verify_members(charter, now=now, known=known)
    except CharterError as error:
        place = _place(error.where)
        raise CharterError(f"{error.where}: {error.what}", where=tree.where(place), remedy=error.remedy) from error
    return charter


def dump_charter(charter: Charter) -> str:
    """Return the YAML of ``charter``, statements included as text."""
    # Aliases, folded lines and YAML 1.1's view of what is a number stay out of the file.
    return yaml.dump(
        charter.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20
    )


def _include_statements(tree: Yaml, folder: Path) -> None:
    members = tree.value.get("members") if isinstance(tree.value, dict) else None
    for number, member in enumerate(members if isinstance(members, list) else []):
        text = member.get("statement") if isinstance(member, dict) else None
        if not isinstance(text, str) or text.lstrip().startswith("{"):
            continue  # the envelope itself, or something that the model will refuse
        place = ("members", number, "statement")
        member["statement"] = _read_statement(folder, text, tree.where(place), ".".join(map(str, place)))


def _read_statement(folder: Path, text: str, where: str, field: str) -> str:
    relative = PurePosixPath(text)
    if relative.is_absolute() or ".." in relative.parts or not text or "\\" in text or "\0" in text:
        raise CharterError(
            f"{field}: a statement is named by a path below the charter's folder", where=where, remedy="Move it there."
        )
    try:
        data = read_regular_file(folder / relative, limit=_STATEMENT_LIMIT, what="key statement", follow=False)
        return data.decode("ascii").strip()
    except OSError as error:
        raise CharterError(f"{field}: {text[:100]} cannot be read ({error.strerror})", where=where) from None
    except (MalformedError, UnicodeDecodeError):
        raise CharterError(f"{field}: {text[:100]} is not a key-statement file", where=where) from None


def _build(tree: Yaml) -> Charter:
    try:
        return Charter.model_validate_json(canonical(tree.value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place: Place = first.get("ctx", {}).get("place", first["loc"])
        field = ".".join(str(part) for part in place) or "(whole)"
        what = first.get("ctx", {}).get("what", first["msg"])
        raise CharterError(f"{field}: {what}"[:400], where=tree.where(tuple(place))) from None


def _place(field: str) -> Place:
    return tuple(int(part) if part.isdigit() else part for part in field.split("."))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    plain = text.replace("_", "").isalpha() and text.isascii() and text not in {"true", "false", "null"}
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _text)
