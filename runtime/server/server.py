"""The server: one collaborator's part in running a federation. It holds no site's trust beyond what the log shows.

A `Server` opens its journal and log, logs the federation's creation once, and runs runs. Everything that it decides is in the
journal before it is done and in the log before it counts, so `run` may be called again after any crash.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...audit.events import Event, FederationCreate, MemberAdd
from ...audit.tlog.log import Log
from ...durable import Probe, make_folder, silent
from ...trust.canonical import canonical
from ...trust.charter.model import Member
from ...trust.charter.signing import SignedCharter
from ...trust.errors import CustodyError
from ...trust.group import Authorizer
from ...trust.keys.member import MemberKeys
from ...trust.keys.validity import KeyHistory
from ..config import RunConfig
from ..drafts import remove_drafts
from ..errors import ObjectExistsError, RunError, StoreSetupError
from ..journal import Journal
from ..parties import Parties
from ..progress import Observer, ignore
from ..stores.seam import ObjectStore
from ..training.seam import Array, Trainer
from ..transports.seam import Transport
from .correspondence.filing import Filing
from .enrolments import log_admissions
from .gate import Gate
from .notary import Notary
from .office import Office
from .run import RunResult, run_to_end
from .start import forget_run_key

__all__ = ["Server"]


def _now() -> int:
    return int(time.time())


class Server:
    """The federation's server. Not thread-safe; a context manager."""

    def __init__(
        self,
        *,
        charter: SignedCharter,
        keys: MemberKeys,
        state: Path,
        log: Path,
        store: ObjectStore,
        authorizer: Authorizer,
        transport: Transport,
        admissions: Path | None = None,
        clock: Callable[[], int] = _now,
        observe: Observer = ignore,
        probe: Probe = silent,
    ) -> None:
        """Open the server's folders; ``admissions`` holds what it decided about enrolments.

        Raises:
            JournalError, LogBusyError: another process is at work on them.
            CustodyError: ``keys`` are not the ones that the charter names for its server.
            LogCorruptError: the log folder contradicts itself.
        """
        self._charter = charter
        self._transport = transport
        self._admissions = admissions
        identity = charter.charter.server
        if keys.checkpoint is None or keys.key_ids != charter.statements[identity].document.key_ids:
            raise CustodyError("these are not the keys that the charter names for its server", where=identity)
        make_folder(state, 0o700)
        self._journal = Journal(state / "server.sqlite", probe=probe)
        try:
            self._log = Log.open(log, charter.charter.log_origin, keys.checkpoint, probe=probe)
        except BaseException:
            self._journal.close()
            raise
        if self._log.size and self._journal.get("leaf/federation") is None:
            self.close()
            raise RunError(
                "the log has leaves, and the state folder does not know them",
                where=str(state),
                remedy="Name the state folder that belongs to this log; a server without it would start every run again.",
            )
        for owned in (state, log):
            remove_drafts(owned)  # an earlier life's; the locks of journal and log say that there is no other now
        notary = Notary(self._log, self._journal, keys.signer, log / "objects", probe=probe)
        parties = Parties(charter, KeyHistory.from_charter(charter.charter.federation, charter.statements.values()))
        self._office = Office(
            identity=identity,
            parties=parties,
            filing=Filing.open(notary, self._journal, parties, keys.signer, state, clock),
            keys=keys,
            journal=self._journal,
            notary=notary,
            gate=Gate(authorizer, notary, charter.charter.federation, identity, clock),
            store=store,
            transport=transport,
            clock=clock,
            observe=observe,
            spool=make_folder(state / "spool", 0o700),
            probe=probe,
        )
        self._authorizer = authorizer

    def run(self, config: RunConfig, parameters: Mapping[str, Array], *, evaluator: Trainer | None = None) -> RunResult:
        """Run ``config`` from ``parameters`` to its end, or go on with it where an earlier life stopped.

        Raises:
            RunError: the run's name is taken by another configuration.
            StoreSetupError: the store's place is another federation's, or the store refuses this server.
            StoreError: the store does not answer; call again.
        """
        self._claim_place()
        self._forget_old_keys()
        self._create_federation()
        if self._admissions is not None:
            log_admissions(self._office, self._charter, self._admissions)
        self._office.filing.take_inbox()
        office = self._office
        if evaluator is not None:
            office = Office(**{**office.__dict__, "evaluator": evaluator})
        return run_to_end(office, config, parameters)

    @property
    def log(self) -> Log:
        """The transparency log, for reading."""
        return self._log

    def close(self) -> None:
        """End the transport and release the folders."""
        self._transport.close()
        self._log.close()
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _claim_place(self) -> None:
        """Mark the store's place as this federation's, once: another's objects would take the same keys.

        Raises:
            StoreSetupError: it is another federation's.
        """
        charter = self._charter.charter
        mark = canonical({"federation": charter.federation, "log_origin": charter.log_origin})
        try:
            self._office.store.put("runs/federation", mark)
        except ObjectExistsError:
            raise StoreSetupError(
                "this place in the store is another federation's",
                where="store",
                remedy="Give every federation a bucket, a prefix or a folder of its own.",
            ) from None

    def _forget_old_keys(self) -> None:
        """Erase the keys of runs whose dispute window is over: from then on only the auditor opens their updates."""
        office = self._office
        window = office.parties.charter.dispute_window_seconds
        for key, ended in office.journal.items("ended/"):
            if office.clock() > ended + window:
                forget_run_key(office, key.removeprefix("ended/"))

    def _create_federation(self) -> None:
        charter, office = self._charter.charter, self._office
        self._office.notary.keep(self._charter.raw)
        signatures = tuple(self._office.notary.keep(signed.raw) for signed in self._charter.signatures)
        for statement in self._charter.statements.values():
            self._office.notary.keep(statement.raw)
        about: dict[str, Any] = {"federation": charter.federation, "actor": office.identity}
        source = office.gate.ask(office.identity, "server").source
        steps: dict[str, Callable[[], Event]] = {
            "federation": lambda: FederationCreate(
                **about, time=office.clock(), charter=self._charter.digest, signatures=signatures, authorizer=source
            )
        }
        for member in charter.members:
            steps[f"member/{member.identity}"] = partial(self._member_add, member)
        office.notary.record_all(steps)

    def _member_add(self, member: Member) -> Event:
        return MemberAdd(
            federation=self._charter.charter.federation,
            actor=self._office.identity,
            time=self._office.clock(),
            identity=member.identity,
            roles=member.roles,
            statement=self._charter.statements[member.identity].digest,
        )
