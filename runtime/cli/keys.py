"""`counterseal keys`: make, show, certify, replace and revoke a member's keys. No command prints a private key."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .output import JsonFlag, emit, fields, typed_values
from .secrets import FromCommand, FromEnvironment, FromFile, obtain, unlock

if TYPE_CHECKING:
    from ...trust.documents import Signed
    from ...trust.keys.member import MemberKeys
    from ...trust.keys.statement import KeyStatement

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make and keep a member's keys.")

Suite = Literal["MLKEM768_X25519", "P384", "MLKEM1024_P384"]
Use = Literal["sign", "cosign", "release", "seal", "checkpoint"]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The key folder (mode 0700).")]
StatementFile = Annotated[Path, typer.Option("--statement", help="The key statement in force for these keys.")]
MailboxFolder = Annotated[Path, typer.Option("--out", help="The folder to write the message file into.")]
Days = Annotated[int, typer.Option(min=1, max=400, help="For how many days the statement is valid.")]


@app.command()
def new(
    folder: Folder,
    suite: Annotated[Suite, typer.Option(help="The sealing suite: the charter's.")] = "MLKEM768_X25519",
    operator: Annotated[bool, typer.Option("--operator", help="Add the log's checkpoint key: for the server.")] = False,
    file: FromFile = None,
    environment: FromEnvironment = None,
    command: FromCommand = None,
    as_json: JsonFlag = False,
) -> None:
    """Draw a member's keys and keep them in a new folder, encrypted.

    Example: counterseal keys new keys --operator --passphrase-file passphrase
    """
    from ...trust.keys.custody import create_folder
    from ...trust.keys.member import MemberKeys

    passphrase = obtain(file, environment, command)
    keys = MemberKeys.generate(suite, operator=operator)
    create_folder(folder, keys, passphrase)
    _tell(folder, keys, as_json)


@app.command()
def show(
    folder: Folder,
    file: FromFile = None,
    environment: FromEnvironment = None,
    command: FromCommand = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the fingerprints of the keys in a folder; with a passphrase, also check that they open.

    Example: counterseal keys show keys --passphrase-file passphrase
    """
    if (file, environment, command) != (None, None, None):
        _tell(folder, unlock(folder, file, environment, command), as_json)
        return
    from ...trust.canonical import parse
    from ...trust.keys.index import INDEX, FolderIndex
    from ...trust.keys.permissions import PrivateFolder

    with PrivateFolder(folder) as opened:
        index = FolderIndex.from_json(parse(opened.read(INDEX, limit=64 << 10), what=INDEX), what=INDEX)
    _print(folder, index.suite, {key.use: key.key_id for key in index.keys}, False, as_json)


@app.command()
def statement(
    folder: Folder,
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    identity: Annotated[str, typer.Option(help="This member's identity in the group.")],
    log_origin: Annotated[str, typer.Option(help="The log's origin, as in the charter.")],
    out: Annotated[Path, typer.Option(help="The statement's file; it goes to whoever writes the charter.")],
    days: Days = 365,
    file: FromFile = None,
    environment: FromEnvironment = None,
    command: FromCommand = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the key statement that the charter carries: the public keys, with proofs of possession.

    Example: counterseal keys statement keys --federation ours --identity site-1 --log-origin ours.example/log
    --out site-1.key-statement.counterseal.json --passphrase-file passphrase
    """
    from ...durable import create_file
    from ...trust.keys.statement import make_statement

    keys = unlock(folder, file, environment, command)
    now = int(time.time())
    with typed_values():
        signed = make_statement(
            keys,
            federation=federation,
            identity=identity,
            log_origin=log_origin,
            not_before=now - 300,  # clocks of other members may be behind
            not_after=now - 300 + days * 86_400,
        )
    create_file(out, signed.raw, step="cli.statement")
    _tell_statement(signed, out, as_json)


@app.command()
def rotate(
    folder: Folder,
    into: Annotated[Path, typer.Option(help="The new key folder.")],
    current: StatementFile,
    out: MailboxFolder,
    days: Days = 365,
    name: Annotated[str, typer.Option(help="A name for the message file.")] = "",
    file: FromFile = None,
    environment: FromEnvironment = None,
    command: FromCommand = None,
    as_json: JsonFlag = False,
) -> None:
    """Draw new keys (same passphrase) and write the rotation message, signed with the old key.

    The old folder stays: its keys count until the rotation is in the log.

    Example: counterseal keys rotate keys --into keys-2 --statement mine.key-statement.counterseal.json --out outbox
    --passphrase-file passphrase
    """
    from ...trust.documents import sign
    from ...trust.keys.custody import create_folder, load_folder
    from ...trust.keys.member import MemberKeys
    from ...trust.keys.statement import make_statement
    from ...trust.mailbox import file_name, write_message
    from ...trust.messages import Rotation

    file_name(Rotation.KIND, name)
    passphrase = obtain(file, environment, command)
    old = load_folder(folder, passphrase)
    previous = _own_statement(current, old)
    fresh = MemberKeys.generate(old.suite, operator=old.checkpoint is not None)
    now, was = int(time.time()), previous.document
    signed = make_statement(
        fresh,
        federation=was.federation,
        identity=was.identity,
        log_origin=was.log_origin,
        not_before=now - 300,
        not_after=now - 300 + days * 86_400,
        previous=previous,
        previous_signer=old.signer,
    )
    message = Rotation(federation=was.federation, identity=was.identity, time=now, statement=signed.raw.decode())
    create_folder(into, fresh, passphrase)
    path = write_message(out, sign(message, old.signer), name)
    _tell_statement(signed, path, as_json)


@app.command()
def revoke(
    folder: Folder,
    current: StatementFile,
    reason: Annotated[Literal["lost", "stolen", "superseded", "left"], typer.Option(help="Why.")],
    out: MailboxFolder,
    use: Annotated[Use | None, typer.Option(help="Revoke this key of mine.")] = None,
    member: Annotated[str | None, typer.Option(help="Vote to revoke a key of this other member.")] = None,
    key: Annotated[str | None, typer.Option(help="The key's fingerprint, with --member.")] = None,
    name: Annotated[str, typer.Option(help="A name for the message file.")] = "",
    file: FromFile = None,
    environment: FromEnvironment = None,
    command: FromCommand = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a revocation message: of one's own key, or one's vote about another member's.

    Example: counterseal keys revoke keys --statement mine.key-statement.counterseal.json --use cosign --reason stolen
    --out outbox --passphrase-file passphrase
    """
    if (use is None) == (member is None) or (member is None) != (key is None):
        raise typer.BadParameter("give --use, or --member together with --key", param_hint="--use")
    from ...trust.charter.signing import read_fingerprint
    from ...trust.documents import sign
    from ...trust.mailbox import write_message
    from ...trust.messages import Revocation

    keys = unlock(folder, file, environment, command)
    own = _own_statement(current, keys).document
    target = read_fingerprint(key) if key is not None else _fingerprints(keys).get(use or "")
    if target is None:
        raise typer.BadParameter(f"these keys have none for {use}", param_hint="--use")
    with typed_values():
        message = Revocation(
            federation=own.federation,
            identity=own.identity,
            time=int(time.time()),
            member=member or own.identity,
            key=target,
            reason=reason,
        )
    path = write_message(out, sign(message, keys.signer), name)
    about: dict[str, object] = {"message": str(path), "member": message.member, "key": target, "reason": reason}
    emit(about) if as_json else fields(about)


def _own_statement(path: Path, keys: MemberKeys) -> Signed[KeyStatement]:
    """Return the statement of one's own keys; that these keys are in it is what makes it one's own."""
    from ...trust import dsse
    from ...trust.documents import Signed, parse_document
    from ...trust.errors import SignatureError
    from ...trust.identifiers import sha256
    from ...trust.keys.statement import KeyStatement
    from ...trust.strict_yaml import read_regular_file

    raw = read_regular_file(path, limit=64 << 10, what="key statement").strip()
    envelope = dsse.read(raw)
    document = parse_document(KeyStatement, envelope.payload)
    if document.key_ids != keys.key_ids:
        raise SignatureError("the statement is not of the keys in this folder", where=str(path))
    return Signed(document, sha256(envelope.payload), envelope.key_id, raw)


def _fingerprints(keys: MemberKeys) -> dict[str, str]:
    found = {
        "sign": keys.signer.public.key_id,
        "cosign": keys.cosigner.public.key_id,
        "release": keys.release.public.key_id,
        "seal": keys.opening.public.key_id,
    }
    return found if keys.checkpoint is None else {**found, "checkpoint": keys.checkpoint.public.key_id}


def _tell(folder: Path, keys: MemberKeys, as_json: bool) -> None:
    _print(folder, keys.suite, _fingerprints(keys), True, as_json)


def _print(folder: Path, suite: str, prints: dict[str, str], opened: bool, as_json: bool) -> None:
    from ...trust.charter.signing import fingerprint

    if as_json:
        emit({"folder": str(folder), "suite": suite, "opened": opened, "keys": prints})
        return
    note = (
        "opened and checked" if opened else "not opened: fingerprints as the index claims; give a passphrase to check"
    )
    about: dict[str, Any] = {"folder": folder, "suite": suite, "state": note}
    fields(about | {use: fingerprint(name) for use, name in prints.items()})


def _tell_statement(signed: Signed[KeyStatement], path: Path, as_json: bool) -> None:
    from ...trust.charter.signing import fingerprint
    from .timeline import when

    found = signed.document
    about: dict[str, object] = {
        "file": str(path),
        "identity": found.identity,
        "federation": found.federation,
        "serial": found.serial,
        "not_after": found.not_after,
        "digest": signed.digest,
    }
    if as_json:
        emit(about)
    else:
        fields({**about, "not_after": f"{when(found.not_after)} UTC", "digest": fingerprint(signed.digest)})
