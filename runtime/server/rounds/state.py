"""The rule's state at the server: a row a plane for every member, sealed to the run's key and the auditor's.

    {payloads,runs}/<run>/states/<version>/<member>-<plane>/{payload,manifest}

Only the members whose updates a commit counts get new rows; the others keep the blobs that they had, whatever became of them in
the round. `RuleState` says which blob is whose, by digest; the commit carries a salted commitment to it.

Guarantees: one pass over the inputs makes the next model and all new rows (`fan`); model, rows and table are journaled together,
after everything is sealed, so a crash before forgets all of it and a crash after goes on with the same bytes; nothing
is in the store under a name before it is journaled. A row is opened only if its manifest has the digest that the table
names, whatever lies in the store.

Memory: one stored part and a block of every row and update, and the buffers of one `seal` for every new row. The rows of earlier
versions stay in the store: the auditor replays from them.

Not handled here: what the rows mean (`algorithms.consensus`), who gets to count (`round`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ....algorithms.arithmetic import Float32
from ....algorithms.cohort import Cohort, Tally
from ....algorithms.rule import CohortRule
from ....audit.events import commitment, salt
from ....parameters import Schema
from ....trust.blob.manifest import Place, read_manifest
from ....trust.blob.open import Opened, open_blob
from ....trust.blob.seal import Sealed, seal
from ....trust.errors import PlaceError
from ...delivery import Opening
from ...places import state_manifest_key, state_payload_key
from ...planes import row_schema
from ...rule_state import Made, Row, RuleState
from ..correspondence.tickets import Issued
from ..models import Models
from ..office import Office, RunFile
from .admission import Admitted, open_update
from .aggregate import Kept, combined
from .fan import Branch, Fan

__all__ = ["Pass", "RuleStates"]

_MANIFEST = 1 << 20


class RuleStates:
    """The states of one run's rule, version by version."""

    def __init__(self, office: Office, file: RunFile, rule: CohortRule) -> None:
        self._office = office
        self._file = file
        self._run = file.start.run
        self.rule = rule

    def table(self, version: int) -> RuleState:
        """Return the state beside ``version``, which must be the current one or the next."""
        if version == 0:
            return RuleState.first(self._office.parties.charter.sites, self.rule)
        return RuleState.from_json(self._record(version)["value"])

    def opening(self, version: int) -> Opening:
        """Return what opens the commitment to the state beside ``version``."""
        found = self._record(version)
        return Opening(value=found["value"], salt=found["salt"])

    def commitment(self, version: int) -> str:
        """Return the commitment to the state beside ``version``."""
        found = self._record(version)
        return commitment(found["value"], found["salt"])

    def _record(self, version: int) -> dict[str, Any]:
        found: dict[str, Any] = self._office.journal.get(f"{self._run}/state/{version}")
        return found

    def open(self, version: int, plane: str, stack: ExitStack) -> list[Opened | None]:
        """Return the rows of ``plane`` beside ``version``, one for each member; their sources close with ``stack``.

        Raises:
            BlobError: what lies in the store is not what was sealed.
        """
        members = self.table(version).members
        return [
            None if one.made is None else self._open(index, plane, one.made, stack) for index, one in enumerate(members)
        ]

    def _open(self, member: int, plane: str, made: Made, stack: ExitStack) -> Opened:
        office, schema = self._office, row_schema(plane, self._file.schema)
        raw = office.store.get(state_manifest_key(self._run, made.version, member, plane), limit=_MANIFEST)
        manifest = read_manifest(
            raw, place=self._place(made.version, made.ticket, schema), sender=office.keys.signer.public, now=None
        )
        if manifest.digest != made.rows[plane].manifest:
            raise PlaceError("not the manifest of this state", where=f"state of member {member}")
        source = stack.enter_context(office.store.open(state_payload_key(self._run, made.version, member, plane)))
        return open_blob(manifest, source, self._file.key, schema)

    def _place(self, version: int, ticket: str, schema: Schema) -> Place:
        return self._office.place(self._run, version, "state", schema.digest, ticket=ticket)

    # Writing

    def forget_unnamed(self) -> None:
        """Remove rows that an earlier life sealed and did not come to journal: nobody has their roots."""
        for stale in self._office.spool.glob(f"state-{self._run}-[0-9]*-[0-9]*-*.payload"):
            stale.unlink()

    def begin(
        self, models: Models, version: int, inputs: Sequence[tuple[Issued, Admitted]], coefficients: Float32
    ) -> Pass:
        """Return the pass that makes ``version`` + 1 and its state: a context manager."""
        return Pass(self, self._office, self._file, models, version, inputs, coefficients)

    def seal_row(self, version: int, member: int, plane: str, ticket: str, chunks: Iterator[bytes]) -> Sealed:
        """Seal a new row for the server itself and the auditor."""
        office, schema = self._office, row_schema(plane, self._file.schema)
        return seal(
            chunks,
            schema=schema,
            place=self._place(version, ticket, schema),
            recipients=[self._file.key.public, *office.auditor_key()],
            signer=office.keys.signer,
            spool=self._spool(version, member, plane),
            expires=office.clock() + office.parties.charter.dispute_window_seconds,
            workers=1,
            probe=office.probe,
        )

    def _spool(self, version: int, member: int, plane: str) -> Path:
        return self._office.spool / f"state-{self._run}-{version:06d}-{member}-{plane}.payload"

    def upload(self, version: int) -> None:
        """Put the new rows of ``version`` into the store, once; then the state before the last is nobody's need."""
        office = self._office
        for name, raw in (office.journal.get(f"{self._run}/state-rows/{version}") or {}).items():
            index, plane = name.split("/")
            spool = self._spool(version, int(index), plane)
            if spool.exists():  # else an earlier life put it, and died before it could say so
                office.store.put(state_payload_key(self._run, version, int(index), plane), spool)
                office.store.put(state_manifest_key(self._run, version, int(index), plane), raw.encode())
                spool.unlink()
        office.journal.remove(f"{self._run}/state-rows/{version}")
        office.journal.remove(f"{self._run}/state/{version - 2}")


class Pass:
    """One pass: pull `chunks` to its end, then take `facts`. What is not whole when the context ends leaves nothing."""

    def __init__(
        self,
        states: RuleStates,
        office: Office,
        file: RunFile,
        models: Models,
        version: int,
        inputs: Sequence[tuple[Issued, Admitted]],
        coefficients: Float32,
    ) -> None:
        self._states = states
        self._office = office
        self._file = file
        self._models = models
        self._version = version
        self._inputs = inputs
        self._coefficients = coefficients
        self._before = states.table(version)
        self._cohort = Cohort.of(
            [one.site for one in self._before.members],
            [ticket.order.site for ticket, _ in inputs],
            self._before.rho,
        )
        self._tally = Tally(self._cohort.rows)
        self._sealed: dict[tuple[str, int], Sealed] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def chunks(self) -> Iterator[memoryview]:
        """Yield the canonical bytes of the next model; at the end all new rows are sealed too."""
        states, stack = self._states, self._stack
        states.forget_unnamed()
        parent = self._models.open(self._version, stack)
        updates = [
            open_update(self._office, self._file, ticket, admitted.manifest or "", stack)
            for ticket, admitted in self._inputs
        ]
        rows = {plane: states.open(self._version, plane, stack) for plane in states.rule.state_planes}
        branches = self._branches()
        kept = Kept(self._cohort, rows, partial(_push, branches), self._tally)
        yield from combined(self._file.schema, parent, updates, states.rule, self._coefficients, kept)
        for branch in branches.values():
            branch.end()
        self._sealed = {place: branch.result() for place, branch in branches.items()}

    def _branches(self) -> dict[tuple[str, int], Branch[Sealed]]:
        places = [(plane, place) for plane in self._states.rule.state_planes for place in range(len(self._inputs))]
        fan = self._stack.enter_context(Fan(len(places)))
        branches = {(plane, place): fan.branch(self._work(plane, place)) for plane, place in places}
        for (plane, _), branch in branches.items():
            branch.push(memoryview(row_schema(plane, self._file.schema).header()))
        return branches

    def _work(self, plane: str, place: int) -> Callable[[Iterator[bytes]], Sealed]:
        ticket = self._inputs[place][0].digest
        return partial(self._states.seal_row, self._version + 1, self._cohort.rows[place], plane, ticket)

    def facts(self) -> Mapping[str, Any]:
        """Return what is journaled together with the model: the next table, its salt, the new rows' manifests."""
        planes, version, run = self._states.rule.state_planes, self._version + 1, self._file.start.run
        made: dict[str, Made] = {}
        manifests: dict[str, str] = {}
        for place, (ticket, _) in enumerate(self._inputs):
            member = self._cohort.rows[place]
            rows = {plane: self._sealed[plane, place] for plane in planes}
            made[ticket.order.site] = Made(
                version=version,
                ticket=ticket.digest,
                rows={
                    plane: Row(manifest=one.manifest.digest, plaintext=one.plaintext_digest)
                    for plane, one in rows.items()
                },
            )
            manifests |= {f"{member}/{plane}": one.manifest.raw.decode() for plane, one in rows.items()}
        rho = self._states.rule.adapt(self._cohort.rho, self._tally)
        table = self._before.after(made, rho)
        return {
            f"{run}/state/{version}": {"value": table.to_json(), "salt": salt()},
            f"{run}/state-rows/{version}": manifests,
        }


def _push(branches: Mapping[tuple[str, int], Branch[Sealed]], plane: str, update: int, block: memoryview) -> None:
    branches[plane, update].push(block)
