"""`counterseal charter`: write, check, sign, assemble, verify and compare charters."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import JsonFlag, emit, fields, plain, redact
from .secrets import FromCommand, FromEnvironment, FromFile, unlock

if TYPE_CHECKING:
    from ...trust.charter.members import Statements
    from ...trust.charter.model import Charter
    from ...trust.charter.signing import SignedCharter

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write, sign and check the federation's charter.")

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="The charter: its YAML draft, or its canonical charter.json.")
]
Old = Annotated[Path | None, typer.Option("--old", help="The folder of the charter that this one amends.")]


@app.command()
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML file to write.")],
    federation: Annotated[str, typer.Option(help="The federation's name.")] = "our-federation",
    title: Annotated[str, typer.Option(help="What it is for.")] = "What this federation is for",
    log_origin: Annotated[str, typer.Option(help="The log's name: a URL without https://.")] = "fed.example/log",
    group: Annotated[str, typer.Option(help="The group that is asked who is a member.")] = "our-group",
) -> None:
    """Write a commented template of a charter, to be filled in by the institutions together.

    Example: counterseal charter new charter.yaml --federation ours --log-origin ours.example/log
    """
    from ...durable import create_file
    from ...trust.charter.yaml_file import TEMPLATE

    values = {"federation": federation, "title": title, "log_origin": log_origin, "group": group}
    text = TEMPLATE.format(**{name: json.dumps(value) for name, value in values.items()})
    create_file(file, text.encode(), step="cli.charter")
    typer.echo(f"{plain(file)} written. Edit it, then: counterseal charter check {plain(file)}")


@app.command()
def check(file: File, old: Old = None, as_json: JsonFlag = False) -> None:
    """Check a charter and its key statements; print its digest to read aloud, and what it does not protect.

    Example: counterseal charter check charter.yaml
    """
    from ...trust.identifiers import sha256

    charter, raw = _draft(file, _known(old))
    _tell(charter, sha256(raw), as_json)


@app.command()
def sign(
    file: File,
    keys: Annotated[Path, typer.Option(help="The folder of this member's keys.")],
    identity: Annotated[str, typer.Option(help="For which member to sign.")],
    out: Annotated[Path, typer.Option(help="The folder to write the signature file into.")] = Path(),
    digest: Annotated[
        str | None, typer.Option(help="The digest that the other officers told you; asked for if not given.")
    ] = None,
    old: Old = None,
    passphrase_file: FromFile = None,
    environment: FromEnvironment = None,
    command: FromCommand = None,
    as_json: JsonFlag = False,
) -> None:
    """Sign a charter, after its digest was compared with the other officers over a channel that is not the server's.

    The digest is typed, never shown for confirmation: signing what a file shows proves nothing.

    Example: counterseal charter sign charter.yaml --keys keys --identity site-1 --passphrase-file passphrase
    """
    from ...durable import create_file
    from ...trust.charter.signing import sign_charter
    from ..founding.charter_folder import signature_file

    known = _known(old)
    _, raw = _draft(file, known)
    held = unlock(keys, passphrase_file, environment, command)
    typed = digest if digest is not None else typer.prompt("The digest that the other officers read to you", err=True)
    signed = sign_charter(raw, identity, held.signer, typed, now=int(time.time()), known=known)
    path = out / signature_file(identity)
    create_file(path, signed.raw, step="cli.signature")
    about: dict[str, object] = {"signature": str(path), "identity": identity, "charter": signed.document.charter}
    emit(about) if as_json else fields(about)


@app.command()
def assemble(
    file: File,
    signatures: Annotated[list[Path], typer.Argument(metavar="SIGNATURES...", help="Every member's signature file.")],
    out: Annotated[Path, typer.Option(help="The folder of the signed charter, for every member.")],
    as_json: JsonFlag = False,
) -> None:
    """Put a charter and all its signatures into one folder, after verifying them.

    Example: counterseal charter assemble charter.yaml *.charter-signature.counterseal.json --out charter
    """
    from ...trust.charter.signing import verify_charter
    from ...trust.strict_yaml import read_regular_file
    from ..founding.charter_folder import write_charter_folder

    _, raw = _draft(file, {})
    found = [read_regular_file(path, limit=1 << 20, what="charter signature") for path in signatures]
    signed = verify_charter(raw, found, now=int(time.time()))
    write_charter_folder(out, signed.raw, [(one.document.identity, one.raw) for one in signed.signatures])
    _tell(signed.charter, signed.digest, as_json, signers=sorted(signed.signers))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a signed charter.")],
    digest: Annotated[str | None, typer.Option(help="The digest that an officer told you.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Verify that every member signed the charter in a folder.

    Example: counterseal charter verify charter
    """
    from ...trust.charter.signing import read_fingerprint
    from ...trust.errors import CharterError

    signed = _signed(folder)
    if digest is not None and read_fingerprint(digest) != signed.digest:
        raise CharterError("the charter is not the one with the digest that you were told", where=str(folder))
    _tell(signed.charter, signed.digest, as_json, signers=sorted(signed.signers))


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A charter: YAML, charter.json or a folder.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Another.")],
    as_json: JsonFlag = False,
) -> None:
    """Show every field in which two charters differ. Exit code 1 if there is one.

    Example: counterseal charter diff charter amended.yaml
    """
    before = _either(old, {})
    known = _signed(old).statements if old.is_dir() else {}
    one, two = _flat(before), _flat(_either(new, known))
    changes = [
        {"field": name, "old": one.get(name), "new": two.get(name)}
        for name in sorted(one.keys() | two.keys())
        if one.get(name) != two.get(name)
    ]
    if as_json:
        emit({"same": not changes, "changes": changes})
    for change in [] if as_json else changes:
        typer.echo(f"{plain(change['field'])}: {_brief(change['old'])} -> {_brief(change['new'])}")
    if changes:
        raise typer.Exit(1)
    if not as_json:
        typer.echo("the same charter")


def _draft(file: Path, known: Statements) -> tuple[Charter, bytes]:
    """Return the charter in ``file`` and the bytes over which its digest goes: those of the file, if it is canonical JSON."""
    from ...trust.charter.members import verify_members
    from ...trust.charter.signing import read_charter
    from ...trust.charter.yaml_file import load_charter_draft
    from ...trust.strict_yaml import read_regular_file

    now = int(time.time())
    if file.suffix != ".json":
        draft = load_charter_draft(file, now=now, known=known)
        return draft, draft.payload()
    raw = read_regular_file(file, limit=16 << 20, what="charter")
    charter = read_charter(raw)
    verify_members(charter, now=now, known=known)
    return charter, raw


def _signed(folder: Path) -> SignedCharter:
    from ..founding.charter_folder import read_charter_folder

    return read_charter_folder(folder, now=int(time.time()))


def _known(old: Path | None) -> Statements:
    return {} if old is None else _signed(old).statements


def _either(path: Path, known: Statements) -> Charter:
    return _signed(path).charter if path.is_dir() else _draft(path, known)[0]


def _tell(charter: Charter, digest: str, as_json: bool, *, signers: list[str] | None = None) -> None:
    from ...trust.charter.signing import fingerprint

    caveats = [str(caveat) for caveat in charter.warnings()]
    about: dict[str, Any] = {
        "federation": charter.federation,
        "version": charter.version,
        "server": charter.server,
        "sites": list(charter.sites),
        "quorum": f"{charter.quorum.k} of {len(charter.sites)}, {charter.quorum.f} may lie",
        "suite": charter.suite,
        "digest": digest,
    }
    if signers is not None:
        about["signed_by"] = signers
    if as_json:
        emit({**about, "fingerprint": fingerprint(digest), "caveats": caveats})
        return
    shown = {name: ", ".join(value) if isinstance(value, list) else value for name, value in about.items()}
    fields({**shown, "digest": fingerprint(digest)})
    for caveat in caveats:
        typer.echo(f"NOT PROTECTED  {plain(redact(caveat))}")


def _flat(charter: Charter) -> dict[str, Any]:
    """Return the charter's fields by path; members stand under their identities, their statements as digests."""
    from ...trust.identifiers import sha256

    value = charter.model_dump(mode="json")
    value["members"] = {
        member["identity"]: {**member, "statement": sha256(member["statement"].encode())} for member in value["members"]
    }
    flat: dict[str, Any] = {}
    todo: list[tuple[str, Any]] = [("", value)]
    while todo:
        path, one = todo.pop()
        if isinstance(one, dict) and one:
            todo += [(f"{path}.{name}" if path else name, item) for name, item in one.items()]
        else:
            flat[path] = one
    return flat


def _brief(value: object) -> str:
    return "(none)" if value is None else plain(value)[:100]
