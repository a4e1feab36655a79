"""`counterseal audit`: what an outside reviewer runs, with public keys and a copy of the log. No network, no torch, no boto3.

`replay` needs more: the auditor's key and the store (`audit_replay`); `privacy` needs the extra `dp` (`audit_privacy`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .audit_privacy import privacy
from .audit_replay import replay
from .output import JsonFlag, console, emit, fields, plain

if TYPE_CHECKING:
    from ...audit.checks.findings import Findings
    from ...trust.charter.signing import SignedCharter

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check and read a log that somebody else wrote.")
app.command()(privacy)
app.command()(replay)

_LIMIT = 16 << 20

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The log's folder, or a copy of the store's mirror.")]


@app.command()
def verify(
    folder: Folder,
    charter: Annotated[
        Path | None, typer.Option(help="The folder of the signed charter that you hold: your root of trust.")
    ] = None,
    digest: Annotated[
        str | None, typer.Option(help="The charter's digest as a member's officer told it to you (16 groups of four).")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="A C2SP tlog-policy file that takes the place of the charter's quorum.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check every obligation of a log; say PASS, FAIL, UNDECIDED or NOT COVERED for each, and why.

    Without --charter or --digest the charter beside the log is taken, and obligation 0 says that nobody compared it.
    Exit code 1 if anything failed.

    Example: counterseal audit verify server/log --digest "91f0 3c22 ..."
    """
    from ...audit.checks.evidence import Trust
    from ...audit.checks.source import FolderSource
    from ...audit.verify import verify as check

    found, compared = _charter(folder, charter, digest)
    trust = Trust(found, None if policy is None else _policy(policy), _objects(folder))
    findings = check(FolderSource(folder), trust)
    if as_json:
        emit(_as_json(findings, found.digest, compared))
    else:
        _show(findings, found, compared)
    if not findings.passed:
        raise typer.Exit(1)


@app.command()
def show(
    folder: Folder,
    run: Annotated[str | None, typer.Option(help="Only events of this run.")] = None,
    site: Annotated[str | None, typer.Option(help="Only events that name this identity.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what the log says, one line an event. Nothing is verified here.

    Example: counterseal audit show server/log --run run-1 --site site-a@fed.example
    """
    from .timeline import concerns, lines, read_copy, when

    copy = read_copy(folder)
    found = [line for line in lines(copy.leaves) if concerns(line, run=run, site=site)]
    if as_json:
        emit(
            {
                "origin": copy.checkpoint.origin,
                "size": copy.checkpoint.size,
                "root": copy.checkpoint.root.hex(),
                "verified": False,
                "events": [{"index": line.index, "event": line.values or None} for line in found],
            }
        )
        return
    typer.echo(
        f"{plain(copy.checkpoint.origin)}: {copy.checkpoint.size} leaves. Not verified: use `counterseal audit verify`."
    )
    for line in found:
        event = line.event
        head = "" if event is None else f"{when(event.time)}  {event.type:<18}  {plain(event.actor)}  "
        typer.echo(f"{line.index:>6}  {head}{plain(line.about())}")


@app.command()
def proof(
    folder: Folder,
    index: Annotated[int, typer.Option(min=0, help="Which leaf.")],
    out: Annotated[Path | None, typer.Option(help="Where to write it; by default INDEX.tlog-proof here.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the proof that a leaf is in the log, as a C2SP .tlog-proof file that needs nothing else of the log.

    Example: counterseal audit proof server/log --index 41 --out commit.tlog-proof
    """
    from ...audit.errors import CheckpointError, ProofError
    from ...audit.tlog.merkle import leaf_hash
    from ...audit.tlog.proof import LogProof
    from ...audit.tlog.tree import Tree
    from ...durable import create_file
    from .timeline import read_copy

    copy = read_copy(folder)
    size = copy.checkpoint.size
    if index >= size:
        raise ProofError(f"no leaf {index} in a log of {size}", where=str(folder))
    tree = Tree()
    tree.extend(map(leaf_hash, copy.leaves))
    if len(copy.leaves) != size or tree.root(size) != copy.checkpoint.root:
        raise CheckpointError("the leaves do not hash to the checkpoint's root", where=str(folder))
    path = Path(f"{index}.tlog-proof") if out is None else out
    create_file(path, LogProof(index, tree.inclusion(index, size), copy.note).to_bytes(), step="cli.proof")
    about: dict[str, object] = {"index": index, "size": size, "root": copy.checkpoint.root.hex(), "file": str(path)}
    emit(about) if as_json else fields(about)


def _charter(folder: Path, given: Path | None, digest: str | None) -> tuple[SignedCharter, bool]:
    """Return the verified charter, and whether the caller brought what it was compared with."""
    from ...trust.charter.signing import read_fingerprint
    from ...trust.errors import CharterError

    told = None if digest is None else read_fingerprint(digest)
    found = _charter_beside(folder, told) if given is None else charter_held(given)
    if told is not None and found.digest != told:
        raise CharterError(
            "the charter is not the one with the digest that you were told",
            where=str(given or folder),
            remedy="Believe nothing in this log before you have found out who changed the charter.",
        )
    return found, given is not None or told is not None


def charter_held(folder: Path) -> SignedCharter:
    """Return the charter in a member's own folder, verified; its key statements may have run out since."""
    from ...trust.strict_yaml import read_regular_file

    names = sorted((folder / "signatures").glob("*.charter-signature.counterseal.json"))
    raw, *signatures = (
        read_regular_file(path, limit=_LIMIT, what="charter") for path in (folder / "charter.json", *names)
    )
    return _verified(raw, signatures)


def _charter_beside(folder: Path, told: str | None) -> SignedCharter:
    """Return the charter that ``federation.create`` names, from the objects beside the log: for reading, not for trusting."""
    from ...audit.events import FederationCreate
    from ...trust.errors import CharterError
    from .timeline import lines, read_copy

    for line in lines(read_copy(folder).leaves[:1]):
        if isinstance(line.event, FederationCreate):
            objects = _objects(folder)
            wanted = (told or line.event.charter, *line.event.signatures)
            found = [objects[one] for one in wanted if one in objects]
            if len(found) == len(wanted):
                return _verified(found[0], found[1:])
    raise CharterError(
        "the charter and its signatures do not lie beside the log",
        where=str(folder),
        remedy="Give them with --charter.",
    )


def _verified(raw: bytes, signatures: list[bytes]) -> SignedCharter:
    # Key statements run out; what counts is whether they held when the charter was signed, which every member did.
    import time

    from ...trust import dsse
    from ...trust.charter.signing import CharterSignature, verify_charter
    from ...trust.documents import parse_document

    signed = [parse_document(CharterSignature, dsse.read(one).payload).time for one in signatures]
    return verify_charter(raw, signatures, now=min(max(signed, default=0), int(time.time())))


def _objects(folder: Path) -> dict[str, bytes]:
    """Return the canonical objects beside the log, by the SHA-256 that this process computed."""
    from ...trust.identifiers import sha256

    found = {}
    for path in sorted((folder / "objects").glob("*.json")):
        if path.is_file() and path.stat().st_size <= _LIMIT:
            data = path.read_bytes()
            found[sha256(data)] = data
    return found


def _policy(path: Path) -> Any:
    from ...audit.tlog.policy import Policy

    return Policy.parse(path.read_text(encoding="utf-8", errors="replace"))


def _root_row(compared: bool) -> dict[str, Any]:
    reason = "taken from beside the log; compare its digest with a member's officer, or give --charter or --digest"
    return {
        "id": "0",
        "checks": "the charter is the one that you brought",
        "status": "PASS" if compared else "UNDECIDED",
        "reasons": [] if compared else [reason],
    }


def _as_json(findings: Findings, charter: str, compared: bool) -> dict[str, Any]:
    rows = [
        {"id": row.id, "checks": row.checks, "status": row.status.value, "reasons": list(row.reasons)}
        for row in findings.rows
    ]
    return {
        "passed": findings.passed,
        "origin": findings.origin,
        "size": findings.size,
        "root": findings.root,
        "charter": charter,
        "charter_compared": compared,
        "obligations": [_root_row(compared), *rows],
    }


def _show(findings: Findings, charter: SignedCharter, compared: bool) -> None:
    from rich.text import Text

    from ...trust.charter.signing import fingerprint

    out = console()
    about = {"log": findings.origin, "leaves": findings.size, "root": findings.root or "none verified"}
    fields({**about, "charter": fingerprint(charter.digest)})
    colours = {"PASS": "green", "FAIL": "bold red", "UNDECIDED": "yellow", "NOT COVERED": "yellow"}
    rows = _as_json(findings, charter.digest, compared)["obligations"]
    for row in rows:
        out.print(Text(f"{row['id']:>3}  ").append(f"{row['status']:<11}", style=colours[row["status"]]), end="  ")
        out.print(Text(plain(row["checks"])), soft_wrap=True)
        for reason in row["reasons"]:
            out.print(Text(f"{'':>18}- {plain(reason)}"), soft_wrap=True)
    counts = [row["status"] for row in rows]
    typer.echo(", ".join(f"{counts.count(word)} {word}" for word in colours if word in counts))
