"""A site: takes deliveries, believes nothing unproven, does the work once, answers the same thing for ever.

The order of an answer, and why a crash between any two steps is harmless:

 1. signature and address of the ticket; grants, which are unsigned, are for this ticket's objects and no others; a ticket
    answered before is answered with the stored receipt, and its stored bytes are sent again if the delivery grants that: nothing
    is computed twice;
 2. time and place: each sequence number once, rising; another ticket in a taken place is evidence;
 3. the proofs (`checks`) and the means to do the work; what fails up to here decided nothing, and a better delivery of the same
    ticket is taken; then the new checkpoint is remembered: before its cosignature can leave;
 4. the server is an active member of the group, by this site's own authority; if that cannot be asked, nothing is decided;
 5. the ticket is accepted (journal), earlier ones are settled;
 6. the work (`work`): a crash here loses the sealing root, so the work is done again and nothing had left; a grant that does not
    open the model decides nothing either;
 7. the receipt is signed and recorded together with the fate that is still open; from here on the answer never changes;
 8. upload, the answer object in the store, the answer.

A fork or an equivocation halts the site: it keeps the evidence and takes nothing more until a person has looked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from ...audit.errors import ForkError
from ...audit.events import Place as LogPlace
from ...audit.events import ReceiptFile, Spending
from ...audit.tlog.witness import cosign
from ...durable import Probe, silent
from ...errors import CountersealError
from ...privacy.errors import CoupledRecordsError, UnsupportedModelError
from ...trust.canonical import canonical, parse
from ...trust.charter.signing import SignedCharter
from ...trust.documents import Signed, sign
from ...trust.dsse import read
from ...trust.errors import CustodyError, EquivocationError, ExpiredTicketError, NotAuthorizedError, ReplayedTicketError
from ...trust.group import Authorizer, Decision
from ...trust.identifiers import sha256
from ...trust.keys.member import MemberKeys
from ...trust.keys.validity import KeyHistory
from ...trust.tickets import Ticket, open_ticket
from ..config import RunConfig
from ..delivery import ANSWER_BYTES, DELIVERY_LIMIT, Answer, Delivery, Fault, Opening
from ..environment import environment_digest
from ..errors import (
    ConsistencyNeededError,
    GrantError,
    GroupUnavailableError,
    ObjectExistsError,
    RefusedError,
    SiteHaltedError,
    StoreSetupError,
)
from ..parties import Parties
from ..sealed_json import seal_opening
from ..stores.seam import GrantClient
from ..training.seam import Trainer
from .checks import Standing, Verified, verify_delivery
from .keys import rebuild, remember
from .memory import SiteMemory
from .outbox import Outbox
from .state import PATIENCE, SiteState
from .steward import Steward
from .work import Done, Workshop, metrics_commitment, require_grants, run_key

__all__ = ["Site"]

Outcome = Literal["done", "refused", "failed"]

_log = logging.getLogger(__name__)


class Site:
    """One institution's runtime. Not thread-safe: one delivery at a time."""

    def __init__(
        self,
        *,
        identity: str,
        charter: SignedCharter,
        keys: MemberKeys,
        state: Path,
        store: GrantClient,
        authorizer: Authorizer,
        trainers: Callable[[RunConfig], Trainer],
        steward: Steward,
        clock: Callable[[], int],
        marker: Path | None = None,
        patience: float = PATIENCE,
        probe: Probe = silent,
    ) -> None:
        """Open the site's state; ``trainers`` builds the trainer of a run, beside this site's data, ``steward`` guards them.

        ``marker`` is a file outside ``state`` by which a lost state is noticed (`SiteState.bind`); ``patience`` the seconds
        to wait for another process of this site.

        Raises:
            JournalError: another process is at work on ``state``.
            LostStateError: this site took part before, with a state that is not this one.
            CustodyError: keys that neither the charter nor the log names for this site.
        """
        self.identity = identity
        self._keys = keys
        self._store = store
        self._authorizer = authorizer
        self._steward = steward
        self._clock = clock
        self._parties = Parties(
            charter, KeyHistory.from_charter(charter.charter.federation, charter.statements.values())
        )
        self._state = SiteState(state, probe=probe, patience=patience)
        try:
            if marker is not None:
                self._state.bind(marker)
            rebuild(self._state.journal, self._parties)
            self._require_known_keys()
        except BaseException:
            self._state.close()
            raise
        self._outbox = Outbox(state, self._state.journal)
        self._memory = SiteMemory(state / "memory", self._state.journal, identity, self._parties, keys, clock, probe)
        self._workshop = Workshop(
            identity,
            self._parties,
            keys,
            store,
            trainers,
            self._state.spool,
            self._state.models,
            self._memory,
            clock,
            probe,
        )

    def handle(self, delivery: bytes) -> bytes:
        """Return the answer to a delivery, as JSON; what a peer sent never makes this raise."""
        ticket: str | None = None
        try:
            found = Delivery.from_json(parse(delivery, limit=DELIVERY_LIMIT, what="delivery"))
            ticket = sha256(read(found.ticket.encode()).payload)
            answer = self._answer(found)
        except ConsistencyNeededError as error:
            answer = Answer(ticket=ticket, fault=Fault(code=error.code, witness_size=error.size))
        except CountersealError as error:
            _log.warning("refused a delivery: %s", error)
            answer = Answer(ticket=ticket, fault=Fault(code=error.code))
        except Exception as error:  # noqa: BLE001 - whatever happens here, the server learns one code and no more
            _log.error("failed on a delivery: %s", type(error).__name__, exc_info=error)
            answer = Answer(ticket=ticket, fault=Fault(code="site_failed"))
        return canonical(answer.model_dump(mode="json"))

    def close(self) -> None:
        """Release the state folder."""
        self._state.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, delivery: Delivery) -> Answer:
        if self._state.halted is not None:
            raise SiteHaltedError(
                f"this site stopped: {self._state.halted}", remedy="A person must look at its evidence."
            )
        ticket = self._open_ticket(delivery.ticket.encode())
        require_grants(ticket, delivery.grants)
        if self._state.journal.get(f"receipt/{ticket.digest}") is not None:
            return self._deliver(ticket, delivery)
        try:
            self._require_place(ticket)
            verified = self._verify(delivery, ticket)
        except (ForkError, EquivocationError) as error:
            self._halt(error, delivery)
            raise
        self._workshop.require_means(verified, delivery)
        decision = self._ask_about_server()
        self._outbox.confirm(verified.settlements, verified.history, self.identity)
        remember(self._state.journal, verified.governing)
        self._parties.history = verified.history
        self._require_own_keys()
        self._state.see(verified.witness)
        for settlement in verified.settlements:
            self._memory.settle(verified.run, settlement)  # before the ticket is closed: a restart settles it again
            self._state.settle(ticket.document.run, settlement.ticket, settlement.fate)
        if ticket.document.kind == "train":
            self._memory.require(verified.run)
        self._state.accept(ticket, {"leaf": verified.run_leaf})
        self._receipt(verified, *self._work(verified, delivery, decision))
        self._memory.rest()
        return self._deliver(ticket, delivery)

    def _open_ticket(self, raw: bytes) -> Signed[Ticket]:
        # Expiry is judged later: a ticket answered in time stays answered.
        charter = self._parties.charter
        witness = self._state.witness(charter.log_origin)
        key = self._parties.current_signing_key(charter.server, at=witness.size)
        return open_ticket(
            raw, key, federation=charter.federation, charter=self._parties.digest, site=self.identity, now=0
        )

    def _require_known_keys(self) -> None:
        named = [one for _, one in self._parties.history.statements if one.document.identity == self.identity]
        if self._keys.key_ids not in [one.document.key_ids for one in named]:
            raise CustodyError(
                "these are not keys that the charter or the log names for this site",
                where=self.identity,
                remedy="After a rotation, run with the old keys until the log holds it.",
            )

    def _require_own_keys(self) -> None:
        history = self._parties.history
        current = self._parties.current_signing_key(self.identity, at=history.last + 1)
        if current.key_id != self._keys.signer.public.key_id:
            raise CustodyError(
                "the log names newer keys of this site than the ones it runs with",
                where=self.identity,
                remedy="Start the site again with the folder of the new keys.",
            )

    def _require_place(self, ticket: Signed[Ticket]) -> None:
        order, journal = ticket.document, self._state.journal
        taken = journal.get(f"place/{order.run}/{order.seq:012d}")
        if taken is not None and taken != ticket.digest:
            raise EquivocationError("two different tickets in one place", where=f"{order.run} #{order.seq}")
        if taken is None and order.seq <= (journal.get(f"seq/{order.run}") or 0):
            raise ReplayedTicketError("a sequence number below the last one", where=f"{order.run} #{order.seq}")
        model = self._state.model(order.run, order.version)
        if order.kind != "witness" and model not in (None, order.parent):
            raise EquivocationError("two different models as one version", where=f"{order.run} version {order.version}")
        now = self._clock()
        if now > order.not_after:
            raise ExpiredTicketError(f"expired {now - order.not_after} seconds ago", where=f"{order.run} #{order.seq}")

    def _verify(self, delivery: Delivery, ticket: Signed[Ticket]) -> Verified:
        run = ticket.document.run
        witness = self._state.witness(self._parties.charter.log_origin)
        if delivery.consistency_from != witness.size:
            raise ConsistencyNeededError(witness.size)
        run_leaf = self._state.journal.get(f"run/{run}")
        statement = self._parties.signed.statements[self.identity].digest
        return verify_delivery(
            delivery,
            ticket,
            Standing(
                identity=self.identity,
                parties=self._parties,
                statements=self._outbox.own_statements() | {statement},
                opening=self._keys.opening,
                witness=witness,
                run_leaf=None if run_leaf is None else run_leaf["leaf"],
                open_tickets=self._state.open_tickets(run),
            ),
        )

    def _ask_about_server(self) -> Decision:
        decision = self._authorizer.check(frozenset({self._parties.charter.server}), "server")
        if decision.outage:
            raise GroupUnavailableError(
                "this site cannot ask its authority about the server",
                where=f"{decision.source}: {decision.reason}",
                remedy="Nothing was decided; the server delivers again.",
            )
        return decision

    def _work(self, verified: Verified, delivery: Delivery, decision: Decision) -> tuple[Done, Outcome, str | None]:
        digest = verified.ticket.digest
        found = self._state.journal.get(f"work/{digest}")
        if found is not None:
            self._steward.settle(digest, released=True)  # an earlier life may have died before it said so
            return (
                Done(**{**found, "metrics": None if found["metrics"] is None else _opening(found["metrics"])}),
                "done",
                None,
            )
        stated: dict[str, Any] | None = None
        try:
            _require_allowed(decision)
            leave = self._steward.admit(verified, self._workshop.dimensions)
            stated = leave.spending
            done = self._workshop.do(verified, delivery, leave)
        except (NotAuthorizedError, RefusedError) as error:
            _log.warning("refused ticket %s: %s", digest[:16], error)
            return Done(), "refused", error.code
        except CountersealError as error:
            if getattr(error, "retryable", False) or isinstance(error, GrantError | StoreSetupError):
                raise  # nothing was decided: the store may answer later, and the next delivery brings other grants
            _log.warning("could not do ticket %s: %s", digest[:16], error)
            if isinstance(error, UnsupportedModelError | CoupledRecordsError):
                self._steward.give_back(digest)  # found on made-up records: no data was touched
                return Done(), "failed", error.code
            self._steward.settle(digest, released=False)
            return Done(spending=stated), "failed", error.code  # it costs like any other, and that is said
        self._state.journal.put(f"work/{digest}", _as_json(done))
        self._steward.settle(digest, released=True)
        return done, "done", None

    def _receipt(self, verified: Verified, done: Done, outcome: Outcome, reason: str | None) -> None:
        ticket, journal = verified.ticket, self._state.journal
        order, witness = ticket.document, verified.witness
        posted = self._outbox.collect(ticket.digest)
        receipt = sign(
            ReceiptFile(
                federation=order.federation,
                actor=self.identity,
                time=self._clock(),
                run=order.run,
                version=order.version,
                ticket=ticket.digest,
                seq=order.seq,
                kind=order.kind,
                outcome=outcome,
                reason=reason,
                manifest=None if done.manifest is None else sha256(read(done.manifest.encode()).payload),
                checkpoint=LogPlace(size=witness.size, root=witness.root.hex()),
                cosignature=cosign(witness.checkpoint, self._keys.cosigner, self.identity, self._clock()),
                metrics=metrics_commitment(done.metrics),
                model=done.model,
                spending=None if done.spending is None else Spending.from_json(done.spending),
                environment=environment_digest(),
                previous=journal.get("last-receipt"),
                outbox=tuple(one.digest for one in posted),
            ),
            self._keys.signer,
        )
        journal.put_many(
            {
                f"receipt/{ticket.digest}": {
                    **_as_json(done),
                    "receipt": receipt.raw.decode(),
                    "sealed_metrics": self._sealed(done.metrics, verified),
                },
                "last-receipt": receipt.digest,
                f"open/{order.run}/{ticket.digest}": {
                    "digest": ticket.digest,
                    "version": order.version,
                    "kind": order.kind,
                    "outcome": outcome,
                    "receipt": receipt.raw.decode(),
                    "manifest": receipt.document.manifest,
                    "norm": done.norm,
                    "attempt": None if verified.opened is None else verified.opened.attempt,
                },
            }
        )

    def _sealed(self, metrics: Opening | None, verified: Verified) -> str | None:
        if metrics is None:
            return None
        where = {"federation": verified.run.federation, "ticket": verified.ticket.digest}
        return seal_opening(metrics, run_key(verified.run), purpose="metrics", **where)

    def _deliver(self, ticket: Signed[Ticket], delivery: Delivery) -> Answer:
        stored = self._state.journal.get(f"receipt/{ticket.digest}")
        etags: tuple[str, ...] = ()
        uploaded = False
        spooled = self._workshop.spooled(ticket.digest)
        if delivery.grants.update is not None and stored["manifest"] is not None and spooled.exists():
            try:
                etags = self._store.upload(delivery.grants.update, spooled, unchanging=True)
            except ObjectExistsError:
                _log.info(
                    "the update was uploaded before"
                )  # whose bytes they are, the server checks against the manifest
            uploaded = True
        answer = Answer(
            ticket=ticket.digest,
            receipt=stored["receipt"],
            manifest=stored["manifest"],
            metrics=stored["sealed_metrics"],
            etags=etags,
            uploaded=uploaded,
            outbox=tuple(one.raw for one in self._outbox.carried(ticket.digest)),
        )
        if delivery.grants.answer is not None and (uploaded or stored["manifest"] is None):
            self._store_answer(answer, delivery)
        return answer

    def _store_answer(self, answer: Answer, delivery: Delivery) -> None:
        # Without etags, which differ between tries, the same answer is the same bytes: put-once can be repeated.
        text = canonical(answer.model_copy(update={"etags": ()}).model_dump(mode="json"))
        if len(text) > ANSWER_BYTES or delivery.grants.answer is None:
            return
        try:
            self._store.upload(delivery.grants.answer, text.ljust(ANSWER_BYTES))
        except ObjectExistsError:
            _log.info("the answer was stored before")

    def _halt(self, error: ForkError | EquivocationError, delivery: Delivery) -> None:
        seen = getattr(error, "seen", b"")
        self._state.halt(
            error.code,
            {
                "what": error.what,
                "ticket": delivery.ticket,
                "checkpoint": delivery.checkpoint,
                "seen": seen.decode("utf-8", "replace") if isinstance(seen, bytes) else str(seen),
                "delivery": canonical(delivery.model_dump(mode="json", exclude={"grants"})).decode(),
            },
        )
        _log.error("stopped for good: %s", error)


def _require_allowed(decision: Decision) -> None:
    if not decision.allowed:
        raise NotAuthorizedError(
            f"the server is not an active member of the group ({decision.reason})",
            where=decision.source,
            remedy="Ask the group's manager; this site asks again at the next delivery.",
        )


def _as_json(done: Done) -> dict[str, object]:
    return {
        "manifest": done.manifest,
        "norm": done.norm,
        "metrics": None if done.metrics is None else done.metrics.model_dump(mode="json"),
        "model": done.model,
        "spending": done.spending,
    }


def _opening(value: dict[str, object]) -> Opening:
    return Opening.from_json(value)
