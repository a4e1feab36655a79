"""The desk: where the server decides about enrolments, one at a time.

In this order, each before anything is asked of the next:

1. *The file.* It opens with the server's key, for this federation and log; the signatures, proofs and the token's hash
   hold (`trust.enrolment`). What fails here was said by nobody whom we could name: an error, and no record.
2. *Once.* An enrolment that was decided before is not decided again, and a token that came with another enrolment is
   not asked about: `replayed`.
3. *The token*, at Globus Auth (`runtime.globus.examination` has the table of reasons). `token_missing` where the group is one of
   Globus and none came; `token_unexpected` where it is a roster, and nobody here could judge one.
4. *The group*, for all identities of the token: its reasons are `not_a_member`, `pending`, `removed` and so on.

Who cannot be asked has decided nothing: the error says so, no record is written, and the same file may be brought again
while its token lives. Every decision, also a refusal, is a signed record before anybody is told (`admissions`). A refusal
is final for its enrolment; the newcomer makes another, with a fresh token.

After that the token is forgotten. It cannot be revoked here: Globus lets the application do that which obtained it, and
not the one that it was for. Until it ends, whoever stole it can bring it to this server, where it counts no second time.

NOT covered: memory of this process, which held the token for a moment; an officer who admits whom he likes (the record is
signed with the server's key, and the charter still needs every member's signature).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...audit.events import Decision
from ...durable import create_file, make_folder
from ...trust.documents import Signed
from ...trust.enrolment import OpenedEnrolment, open_enrolment
from ...trust.errors import MailboxError
from ...trust.group import Authorizer, Role
from ...trust.keys.member import MemberKeys
from ...trust.mailbox import SKEW
from ..errors import AdmissionError, GlobusFault, GlobusRefusedError, GlobusUnavailableError
from ..globus.examination import Examined, Introspect, TokenRules, examine
from .admissions import Admission, Admissions, Rules, Shown

__all__ = ["Auth", "Desk", "Place", "newest_admissions", "publish_statements", "statement_file"]

_OURS: dict[str, str] = {
    "not_visible": "Make the server's service account a manager of the group, or its members visible to members.",
    "forbidden": "Let the server's service account see the group: counterseal group doctor.",
    "no_such_group": "Name the group's UUID.",
    "login_needed": "Check the server's client_id and client_secret.",
}
"""Answers that say something about the server's own credentials, and nothing about the newcomer: what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which federation, log and server this desk speaks for."""

    federation: str
    log_origin: str
    server: str


@dataclass(frozen=True, slots=True)
class Auth:
    """Whom the desk asks about tokens, and what it asks of them."""

    introspect: Introspect
    rules: TokenRules


class Desk:
    """Decides about enrolments in the name of a server."""

    def __init__(
        self,
        place: Place,
        keys: MemberKeys,
        admissions: Admissions,
        authorizer: Authorizer,
        clock: Callable[[], int],
        *,
        role: Role = "site",
        auth: Auth | None = None,
    ) -> None:
        """Decide for ``place``; without ``auth`` the group is a roster, and no enrolment has a token."""
        self._place = place
        self._keys = keys
        self._admissions = admissions
        self._authorizer = authorizer
        self._clock = clock
        self._role = role
        self._auth = auth

    def decide(self, raw: bytes, *, nonce: str | None = None) -> Signed[Admission]:
        """Return the record that admits the enrolment in ``raw``; ``nonce`` is the one that the server handed out for it.

        Raises:
            TrustError: the file does not hold; nothing was decided.
            AdmissionError: refused, with the reason; recorded, unless the same enrolment was decided before.
            GlobusFault: Globus does not answer, or not to this server; nothing was decided.
        """
        with self._admissions.deciding():
            opened = self._open(raw, nonce)
            known = self._admissions.records()
            self._require_new(opened, known)
            try:
                examined = self._examine(opened, known)
                record = self._ask_group(opened, examined)
            except AdmissionError as error:
                self._keep(opened, None, self._decision(opened, False, error.reason, "token"))
                raise
            if not record.document.decision.allowed:
                reason = record.document.decision.reason
                raise AdmissionError(reason, f"the group says {reason} of {record.document.decision.identity}")
            return record

    def _open(self, raw: bytes, nonce: str | None) -> OpenedEnrolment:
        place, now = self._place, self._clock()
        opened = open_enrolment(
            raw, self._keys.opening, federation=place.federation, log_origin=place.log_origin, now=now, nonce=nonce
        )
        if opened.enrolment.document.time > now + SKEW:
            raise MailboxError(
                "the enrolment's time is in the future", where="enrolment", remedy="Set the clocks right."
            )
        return opened

    def _require_new(self, opened: OpenedEnrolment, known: tuple[Signed[Admission], ...]) -> None:
        for one in known:
            if one.document.enrolment_digest == opened.enrolment.digest:
                was = "admitted" if one.document.decision.allowed else f"refused ({one.document.decision.reason})"
                raise AdmissionError(
                    "replayed",
                    f"this enrolment was decided before: {was}",
                    remedy="Ask for a new one, if one is needed.",
                )

    def _examine(self, opened: OpenedEnrolment, known: tuple[Signed[Admission], ...]) -> Examined | None:
        token_hash, identity = opened.statement.document.token_hash, opened.statement.document.identity
        if self._auth is None:
            if opened.token is not None:
                raise AdmissionError("token_unexpected", "a token, where the group is a roster")
            return None
        if opened.token is None:
            raise AdmissionError("token_missing", "no token, where the group is one of Globus")
        if any(one.document.statement.document.token_hash == token_hash for one in known):
            raise AdmissionError("replayed", "the token came with another enrolment before")
        return examine(self._auth.introspect(opened.token), identity, self._auth.rules, self._clock())

    def _ask_group(self, opened: OpenedEnrolment, examined: Examined | None) -> Signed[Admission]:
        identity = opened.statement.document.identity
        everybody = frozenset({identity}) if examined is None else examined.identity_set
        found = self._authorizer.check(everybody, self._role)
        if found.outage:
            raise _undecided(found.reason, found.source)
        decision = self._decision(opened, found.allowed, found.reason, found.source)
        return self._keep(opened, examined, decision)

    def _decision(self, opened: OpenedEnrolment, allowed: bool, reason: str, source: str) -> Decision:
        return Decision(
            identity=opened.statement.document.identity,
            role=self._role,
            allowed=allowed,
            reason=reason,
            source=source,
            time=self._clock(),
        )

    def _keep(self, opened: OpenedEnrolment, examined: Examined | None, decision: Decision) -> Signed[Admission]:
        admission = Admission(
            federation=self._place.federation,
            server=self._place.server,
            time=decision.time,
            enrolment=opened.enrolment.raw.decode("ascii"),
            decision=decision,
            rules=None if self._auth is None else _rules(self._auth.rules, decision.identity),
            shown=None if examined is None else _shown(examined),
        )
        return self._admissions.add(admission, self._keys.signer)


def _undecided(reason: str, source: str) -> GlobusFault:
    if reason in _OURS:
        what = f"the group tells this server nothing ({reason}); nothing was decided"
        return GlobusRefusedError(what, where=source, remedy=_OURS[reason])
    return GlobusUnavailableError(f"the group cannot be asked now ({reason}); nothing was decided", where=source)


def _rules(rules: TokenRules, identity: str) -> Rules:
    return Rules(
        max_session_age=rules.max_session_age,
        mfa=rules.require_mfa,
        service_account=identity in rules.service_accounts,
    )


def _shown(examined: Examined) -> Shown:
    return Shown(
        identity_set=tuple(sorted(examined.identity_set)),
        client=examined.client,
        authenticated=examined.authenticated,
        mfa=examined.mfa,
        session_age=examined.session_age,
    )


def statement_file(identity: str) -> str:
    """Return the file name of a member's key statement beside a draft of the charter.

    >>> statement_file("a@b.example")
    'a@b.example.key-statement.counterseal.json'
    """
    return f"{identity}.key-statement.counterseal.json"


def newest_admissions(admissions: Admissions) -> dict[str, Admission]:
    """Return the newest admission of every identity that was ever admitted.

    Raises:
        CustodyError, MalformedError, SignatureError: see `Admissions.records`.
    """
    admitted = (one.document for one in admissions.records() if one.document.decision.allowed)
    return {record.decision.identity: record for record in admitted}


def publish_statements(admissions: Admissions, folder: Path) -> dict[str, Path]:
    """Write the newest admitted statement of every identity into ``folder``, where a draft of the charter finds it.

    What is missing is written, so a crash after a decision costs nothing. A statement gives nobody a key by lying there.

    Raises:
        MailboxError: another statement of an identity is there, of an admission before.
        CustodyError, MalformedError, SignatureError: see `Admissions.records`.
    """
    found: dict[str, Path] = {}
    for identity, record in newest_admissions(admissions).items():
        path = make_folder(folder) / statement_file(identity)
        if not path.exists():
            create_file(path, record.statement.raw, step="admission.statement")
        elif path.read_bytes() != record.statement.raw:
            raise MailboxError(
                f"another key statement of {identity} is there, from an admission before",
                where=str(path),
                remedy="If its officer says that the keys are new: move that file away, and run this again without FILE.",
            )
        found[identity] = path
    return found
