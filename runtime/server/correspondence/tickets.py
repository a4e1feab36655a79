"""Tickets and deliveries: what the server sends to a site, and what it shows with it.

A ticket is made once and journaled with its sequence number; a delivery is made afresh each time from the log as it stands, so it
proves the ticket against the newest checkpoint and carries fresh grants.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ....audit.tlog.checkpoint import Checkpoint
from ....trust.blob.manifest import part_size
from ....trust.blob.payload import ciphertext_length
from ....trust.canonical import canonical
from ....trust.documents import Signed, parse_document, sign
from ....trust.dsse import read
from ....trust.errors import KeyFault, UnknownKeyError
from ....trust.identifiers import sha256
from ....trust.terms import PrivacyTerms
from ....trust.tickets import Ticket, TicketKind, Work
from ...delivery import ANSWER_BYTES, Delivery, Grants, Opening, Settled, Witnessed
from ...errors import GrantError, StoreError
from ...places import answer_key, global_manifest_key, global_payload_key, update_payload_key
from ...sealed_json import seal_opening
from ...stores.grants import Grant
from ..models import Models
from ..office import Office, RunFile

__all__ = ["Counter", "Issued", "Leave"]


@dataclass(frozen=True, slots=True)
class Issued:
    """A ticket that was signed, by whose leave it may be worked on."""

    signed: Signed[Ticket]

    @property
    def digest(self) -> str:
        """The ticket's name."""
        return self.signed.digest

    @property
    def order(self) -> Ticket:
        """The ticket itself."""
        return self.signed.document


@dataclass(frozen=True, slots=True)
class Leave:
    """From when to when the grants of a delivery last: what tells an expired one from one that is refused."""

    since: int
    until: int

    @classmethod
    def of(cls, grants: Grants, now: int) -> Leave:
        """Return the time of the first of ``grants`` that ends."""
        ends = [
            one.expires for one in (grants.manifest, grants.payload, grants.update, grants.answer) if one is not None
        ]
        return cls(now, min(ends, default=now))

    def over(self, now: int) -> bool:
        """Tell whether the time is over, or nearly: clocks differ a little, and an answer takes its time to arrive."""
        return now >= self.until - (self.until - self.since) // 10


class Counter:
    """Where tickets are issued and deliveries are put together, for one run."""

    def __init__(self, office: Office, file: RunFile, models: Models) -> None:
        self._office = office
        self._file = file
        self._models = models
        self._run = file.start.run

    def issue(self, step: str, site: str, kind: TicketKind, version: int, seconds: int) -> Issued:
        """Return the ticket of ``step`` for ``site``; the same one in every life."""
        office, key = self._office, f"{self._run}/ticket/{step}/{site}"
        raw = office.journal.get(key)
        if raw is None:
            seq = (office.journal.get(f"{self._run}/seq/{site}") or 0) + 1
            needs_model = kind != "witness"
            ticket = Ticket(
                federation=office.federation,
                charter=office.parties.digest,
                run=self._run,
                site=site,
                seq=seq,
                version=version,
                parent=self._models.digest(version),
                kind=kind,
                work=Work(manifest=self._models.manifest_digest(version) if needs_model else None),
                privacy=self._privacy(site) if kind == "train" else None,
                not_after=office.clock() + seconds,
            )
            raw = sign(ticket, office.keys.signer).raw.decode()
            digest = sha256(read(raw.encode()).payload)
            office.journal.put_many(
                {
                    key: raw,
                    f"{self._run}/seq/{site}": seq,
                    f"{self._run}/by-seq/{site}/{seq:012d}": digest,
                    f"{self._run}/by-digest/{digest}": {"site": site, "version": version, "step": step, "kind": kind},
                }
            )
        return self._known(raw.encode())

    def _privacy(self, site: str) -> PrivacyTerms | None:
        privacy = self._file.config.privacy
        return None if privacy is None else privacy.of(site)

    def find(self, digest: str) -> Issued | None:
        """Return the ticket of this run that ``digest`` names, if there is one."""
        journal = self._office.journal
        about = journal.get(f"{self._run}/by-digest/{digest}")
        if about is None:
            return None
        return self._known(journal.get(f"{self._run}/ticket/{about['step']}/{about['site']}").encode())

    def _known(self, raw: bytes) -> Issued:
        envelope = read(raw)
        payload = envelope.payload
        return Issued(Signed(parse_document(Ticket, payload), sha256(payload), envelope.key_id, raw))

    def pin(self, name: str) -> int:
        """Publish a checkpoint and return its size: the one against which every delivery of the round or errand is made.

        A quorum must cosign one and the same checkpoint. A delivery that is repeated later, because a site or this server
        was killed, would otherwise show a newer one than the others saw, and the cosignatures would lie scattered.
        """
        return int(self._office.journal.once(f"{self._run}/pin/{name}", lambda: self._office.publish().size))

    def deliver(self, ticket: Issued, *, grants: Grants, witnessed: int | None, pinned: int) -> bytes:
        """Return a delivery of ``ticket`` against the checkpoint ``pinned``, or the newest if the site has seen a later one.

        ``witnessed`` is the size of the cosigned checkpoint.
        """
        office, order = self._office, ticket.order
        base = office.journal.get(f"seen/{order.site}") or 0
        settled = self._settled(order)
        indices = self._evidence(ticket) | {index for item in settled for index in item.leaves}
        now = self._checkpoint(pinned, base, max(indices))
        governing = office.filing.indices(base, now.size)
        schema = () if order.kind == "witness" else (canonical(self._file.schema.to_json()).decode(),)
        delivery = Delivery(
            ticket=ticket.signed.raw.decode(),
            checkpoint=office.notary.log.checkpoint_at(now.size).decode(),
            consistency_from=base,
            consistency=office.notary.consistency(base, now.size),
            leaves=office.notary.prove(sorted({*indices, *governing}), now.size),
            witnessed=None if witnessed is None else self._witnessed(witnessed, now),
            settled=tuple(settled),
            objects=(*schema, *office.filing.objects(governing)),
            grants=grants,
        )
        return canonical(delivery.model_dump(mode="json"))

    def _checkpoint(self, pinned: int, seen: int, newest: int) -> Checkpoint:
        if seen > pinned or newest >= pinned:
            return self._office.publish()
        log = self._office.notary.log
        return Checkpoint(log.origin, pinned, log.root(pinned))

    def _witnessed(self, size: int, now: Checkpoint) -> Witnessed:
        notary = self._office.notary
        return Witnessed(note=notary.log.cosigned_at(size).decode(), consistency=notary.consistency(size, now.size))

    def _evidence(self, ticket: Issued) -> set[int]:
        notary, order = self._office.notary, ticket.order
        steps = [f"issue/{ticket.digest}"]
        if order.kind == "train":
            step = self._office.journal.get(f"{self._run}/by-digest/{ticket.digest}")["step"]
            steps.append(f"{self._run}/open/{step}")
        if order.kind == "receive":
            steps.append(f"{self._run}/release")
        steps += [f"{self._run}/commit/{version}" for version in (order.version - 2, order.version - 1) if version >= 0]
        found = {self._file.index}
        for step in steps:
            index = notary.step(step)
            if index is not None:
                found.add(index)
        return found

    def _settled(self, order: Ticket) -> list[Settled]:
        journal = self._office.journal
        acknowledged = journal.get(f"{self._run}/settled/{order.site}") or 0
        found = []
        for seq in range(acknowledged + 1, order.seq):
            digest = journal.get(f"{self._run}/by-seq/{order.site}/{seq:012d}")
            found.append(self._settle(digest, journal.get(f"{self._run}/by-digest/{digest}")))
        return found

    def _settle(self, digest: str, about: Mapping[str, Any]) -> Settled:
        notary, journal, version = self._office.notary, self._office.journal, about["version"]
        ends = [f"{self._run}/commit/{version}", f"{self._run}/abort/{about['step']}"]
        steps = [f"{what}/{digest}" for what in ("receipt", "verdict", "exclude", "unused", "expire")]
        if notary.step(f"verdict/{digest}") is not None:
            steps += ends
        indices = [index for step in steps if (index := notary.step(step)) is not None]
        opening = journal.get(f"coefficient/{digest}")
        return Settled(
            ticket=digest,
            leaves=tuple(sorted(indices)),
            coefficient=None if opening is None else self._sealed(Opening(**opening), digest, about["site"]),
        )

    def _sealed(self, opening: Opening, ticket: str, site: str) -> str | None:
        office = self._office
        try:
            key = office.parties.seal_key(site, at=office.notary.log.size)
        except KeyFault:  # revoked and not replaced: the site cannot open anything any more
            return None
        return seal_opening(opening, key, purpose="coefficient", federation=office.federation, ticket=ticket)

    def grants(self, ticket: Issued, *, upload: bool, digests: Mapping[str, Any] | None = None) -> Grants | None:
        """Return leave to read the model and, if ``upload``, to put the update (bound to ``digests`` where known).

        None if the ticket's time is over, or ends while the grants are signed: there is nothing to send any more.
        """
        try:
            return None if self.over(ticket) else self._grants(ticket, upload, digests or {})
        except GrantError:
            if self.over(ticket):
                return None
            raise

    def _grants(self, ticket: Issued, upload: bool, digests: Mapping[str, Any]) -> Grants:
        order, office = ticket.order, self._office
        expires = order.not_after
        put: Grant | None = None
        if upload:
            length = ciphertext_length(self._file.updates.total_bytes)
            earlier = office.journal.get(f"grant/{ticket.digest}")
            put = office.store.grant_put(
                update_payload_key(self._run, ticket.digest),
                length=length,
                part_size=part_size(length),
                expires=expires,
                upload="" if earlier is None else earlier["upload"],
                **digests,
            )
            office.journal.put(f"grant/{ticket.digest}", put.bare().model_dump(mode="json"))
        reads = order.kind != "witness"
        return Grants(
            manifest=office.store.grant_get(global_manifest_key(self._run, order.version), expires=expires)
            if reads
            else None,
            payload=office.store.grant_get(global_payload_key(self._run, order.version), expires=expires)
            if reads
            else None,
            update=put,
            answer=office.store.grant_put(answer_key(self._run, ticket.digest), length=ANSWER_BYTES, expires=expires),
        )

    def withdraw(self, ticket: Issued) -> None:
        """Forget the upload that was begun for a ticket which does not count: its parts lie nowhere and cost space.

        A store that does not answer is left alone: a rule of the bucket removes what stays (`counterseal store policy`).
        """
        bare = self._office.journal.get(f"grant/{ticket.digest}")
        if bare is not None and bare["upload"]:
            with suppress(StoreError):
                self._office.store.abort(Grant.from_json(bare))

    def over(self, ticket: Issued) -> bool:
        """Tell whether it is too late to send ``ticket``: a site would refuse it, and no grant can be signed for it."""
        return self._office.clock() >= ticket.order.not_after

    def site_of(self, digest: str) -> str:
        """Return whose ticket ``digest`` names."""
        about = self._office.journal.get(f"{self._run}/by-digest/{digest}")
        if about is None:
            raise UnknownKeyError("no ticket of this run", where=digest[:16])
        return str(about["site"])
