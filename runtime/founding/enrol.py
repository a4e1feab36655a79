"""Enrolling: how a newcomer presents its keys to a server, with one access token of its own.

Federation, log and suite come from the server's key statement; what makes that statement the server's is the fingerprint of
its sealing key, which its officer read out and ours typed. Only then is a token asked for: one of the federation's own
scope, which opens nothing else. It is never written down: its hash stands in the key statement, and it travels inside the
sealed file alone.

    <out>/<name>.key-statement.counterseal.json    our public keys; the charter will carry them
    <out>/<name>.enrolment.counterseal.json        the sealed enrolment, for the server's officer

The statement is written first: a crash leaves at most a statement without an enrolment, and the next try is told to remove
it. Neither file is ever overwritten: what another party may hold already must not change under the same name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ...durable import create_file, make_folder
from ...trust import dsse
from ...trust.documents import Model, Signed, parse_document, sign
from ...trust.enrolment import require_fingerprint, seal_enrolment
from ...trust.errors import MailboxError
from ...trust.identifiers import Digest, Uuid, sha256
from ...trust.keys.member import MemberKeys
from ...trust.keys.statement import KeyStatement, make_statement, verify_statement
from ...trust.mailbox import file_name
from ...trust.messages import Enrolment

__all__ = ["Made", "Wishes", "enrol", "enrolment_files", "read_server_statement"]

_SKEW = 300
"""Seconds by which clocks of other members may be behind."""


class Wishes(Model):
    """What a newcomer may choose: its Globus Compute endpoint, how long its keys hold, the nonce that it was handed."""

    endpoint: Uuid | None = None
    days: Annotated[int, Field(ge=1, le=400)] = 365
    nonce: Digest | None = None


_NONE = Wishes()


@dataclass(frozen=True, slots=True)
class Made:
    """The two files, and what they say."""

    enrolment: Path
    statement: Path
    signed: Signed[Enrolment]
    keys: Signed[KeyStatement]


def read_server_statement(raw: bytes, *, now: int) -> Signed[KeyStatement]:
    """Return the first key statement of a server; that it is *the* server's is shown by its typed fingerprint alone.

    Raises:
        MalformedError, SignatureError, WeakKeyError: not a first statement that holds.
        MailboxError: of a member that runs no log.
    """
    claimed = parse_document(KeyStatement, dsse.read(raw).payload)
    found = verify_statement(raw, federation=claimed.federation, log_origin=claimed.log_origin, now=now)
    if not found.document.is_operator:
        raise MailboxError("not the key statement of a server: it has no checkpoint key", where=claimed.identity)
    return found


def enrolment_files(identity: str, out: Path) -> tuple[Path, Path]:
    """Return where the enrolment and the key statement of ``identity`` go.

    Raises:
        MailboxError: an enrolment was made there before.
    """
    name = re.sub(r"[^a-z0-9_-]", "_", identity.lower())[:64]
    paths = out / file_name(Enrolment.KIND, name), out / f"{name}.key-statement.counterseal.json"
    for path in paths:
        if path.exists():
            raise MailboxError(
                "an enrolment was made here before",
                where=str(path),
                remedy="Send that one; or, if it was refused, move its files away or name another folder with --out.",
            )
    return paths


def enrol(
    identity: str,
    keys: MemberKeys,
    server: Signed[KeyStatement],
    typed_fingerprint: str,
    get_token: Callable[[], str] | None,
    out: Path,
    *,
    now: int,
    wishes: Wishes = _NONE,
) -> Made:
    """Make the key statement and the sealed enrolment, and write both into ``out``.

    ``get_token`` is asked once, after everything else held; None where the group is a roster.

    Raises:
        CharterError, MailboxError: the fingerprint is another, the suite is another, or an enrolment is there already.
        GlobusFault: no token is to be had.
    """
    place, key = server.document, server.document.seal
    require_fingerprint(key, typed_fingerprint)
    if keys.suite != place.suite:
        raise MailboxError(
            f"these keys are of the suite {keys.suite}, the server's of {place.suite}",
            where="enrolment",
            remedy=f"Draw keys for this federation: counterseal keys new FOLDER --suite {place.suite}",
        )
    sealed_at, statement_at = enrolment_files(identity, out)
    token = None if get_token is None else get_token()
    statement = make_statement(
        keys,
        federation=place.federation,
        identity=identity,
        log_origin=place.log_origin,
        not_before=now - _SKEW,
        not_after=now - _SKEW + wishes.days * 86_400,
        nonce=wishes.nonce,
        token_hash=None if token is None else sha256(token.encode()),
    )
    message = Enrolment(
        federation=place.federation,
        identity=identity,
        time=now,
        server_key=key.key_id,
        statement=statement.raw.decode(),
        endpoint=wishes.endpoint,
    )
    signed = sign(message, keys.signer)
    sealed = seal_enrolment(signed, key, token=token, typed_fingerprint=typed_fingerprint)
    make_folder(out)
    create_file(statement_at, statement.raw, step="enrol.statement")
    create_file(sealed_at, sealed.to_bytes(), step="enrol.sealed")
    return Made(sealed_at, statement_at, signed, statement)
