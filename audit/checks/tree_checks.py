"""Checks 1 to 5: is this one log, whole, append-only, and did a quorum see it?

All of them re-hash the leaves themselves; tiles and proofs in the copy are compared with that, never used.
"""

from __future__ import annotations

from ...trust.charter.vkey import WitnessKey
from ...trust.errors import KeyFault, TrustError
from ...trust.keys.signing import VerifyingKey
from ...trust.keys.validity import KeyHistory
from ..errors import AuditError, NoteError, QuorumError
from ..events import AggregateCommit, Event, ReceiptFile
from ..tlog.checkpoint import Checkpoint, log_key
from ..tlog.cosignature import CosignedCheckpoint, Witnesses, require_cosignature, witness_key
from ..tlog.note import NoteKey, NoteSignature
from ..tlog.policy import Group, Policy, PolicyWitness
from ..tlog.tiles import hash_tiles
from .evidence import Evidence, Logged
from .findings import Outcome, Status, judge

__all__ = ["check_checkpoints", "check_entries", "check_prefixes", "check_quorum", "check_tiles"]


def check_checkpoints(evidence: Evidence) -> Outcome:
    """1. Every checkpoint is of the charter's origin, signed with the charter's key, and stands under its own size."""
    if not evidence.sizes:
        return judge(["the copy holds no checkpoint"])
    return judge([f"checkpoint {size}: {fault}" for size, fault in sorted(evidence.faults.items())])


def check_entries(evidence: Evidence) -> Outcome:
    """2. The leaves, hashed again, give the root that the largest checkpoint names."""
    latest = evidence.latest
    if latest is None:
        return judge([], ["no checkpoint to compare the leaves with"])
    if evidence.unread:
        return judge([f"leaf {len(evidence.leaves)}: {evidence.unread}"])
    if evidence.tree.root(latest.size) != latest.root:
        return judge([f"the {latest.size} leaves do not hash to the signed root"])
    return judge([])


def check_prefixes(evidence: Evidence) -> Outcome:
    """3. Each checkpoint's root is that of the first leaves of the last: nothing was ever rewritten or dropped."""
    faults, open_questions = [], []
    for size, found in sorted(evidence.checkpoints.items()):
        if size > evidence.tree.size:
            open_questions.append(f"checkpoint {size}: its leaves could not be read")
        elif evidence.tree.root(size) != found.checkpoint.root:
            faults.append(f"checkpoint {size} was signed over other leaves than those here")
    return judge(faults, open_questions or ([] if evidence.checkpoints else ["no checkpoint to compare"]))


def check_tiles(evidence: Evidence) -> Outcome:
    """4. Every tile of the largest checkpoint is there and equals the hashes of the leaves."""
    latest = evidence.latest
    if latest is None or latest.size > evidence.tree.size:
        return judge([], ["the leaves could not all be read"])
    faults = []
    for tile in hash_tiles(latest.size):
        data = evidence.source.tile(tile.path())
        if data != evidence.tree.tile(tile):
            faults.append(f"{tile.path()} {'is missing' if data is None else 'has other hashes'}")
    return judge(faults)


def check_quorum(evidence: Evidence, history: KeyHistory, events: list[Logged[Event]]) -> Outcome:
    """5. Checkpoints that a quorum of witnesses cosigned hold every commit; no witness's line is forged.

    Lines stored beside a checkpoint and lines inside signed receipts count alike, each under the key that the witness
    had when the log was that long.
    """
    receipts: dict[int, list[NoteSignature]] = {}
    for one in events:
        if isinstance(one.event, ReceiptFile) and one.event.cosignature is not None:
            line = _line(one.event.cosignature)
            if line is not None:
                receipts.setdefault(one.event.checkpoint.size, []).append(line)
    faults: list[str] = []
    witnessed = -1
    for size, found in sorted(evidence.checkpoints.items()):
        try:
            policy = evidence.trust.policy or _policy(evidence, history, size)
            if _cosigned(found, receipts.get(size, []), policy):
                witnessed = size
        except QuorumError:
            continue
        except AuditError as error:
            faults.append(f"checkpoint {size}: {error.what}")
    commits = [one.index for one in events if isinstance(one.event, AggregateCommit)]
    late = [f"the commit at leaf {index} is UNWITNESSED" for index in commits if index >= witnessed]
    if witnessed < 0 and not late:
        late = ["no checkpoint has a quorum"]
    outcome = judge(faults, late)
    if outcome.status is Status.PASS and _asks_nobody(evidence):
        return Outcome(Status.NOT_COVERED, ("the charter's quorum, or the policy, does not exclude a fork",))
    return outcome


def _asks_nobody(evidence: Evidence) -> bool:
    policy = evidence.trust.policy
    return policy.quorum is None if policy is not None else evidence.trust.charter.charter.quorum.unwitnessed


def _cosigned(found: CosignedCheckpoint, extra: list[NoteSignature], policy: Policy) -> bool:
    names = set(policy.cosigners(found))
    for witness in policy.witnesses:
        if witness.name not in names and any(_holds(line, found.checkpoint, witness.key) for line in extra):
            names.add(witness.name)
    return policy.satisfied(names)


def _holds(line: NoteSignature, checkpoint: Checkpoint, key: NoteKey) -> bool:
    # A receipt may be over a root that this log never had; that is check 13's to report, and no cosignature here.
    try:
        require_cosignature(line.line(), checkpoint, key)
    except NoteError:
        return False
    return True


def _line(text: str) -> NoteSignature | None:
    try:
        return NoteSignature.from_line(text)
    except NoteError:
        return None


def _policy(evidence: Evidence, history: KeyHistory, size: int) -> Policy:
    charter = evidence.trust.charter.charter
    keys: dict[str, VerifyingKey] = {}
    for site in charter.sites:
        try:
            key = history.current(site, "cosign", at=max(size - 1, 0))
        except KeyFault:
            continue
        if isinstance(key, VerifyingKey):
            keys[site] = key
    logs = (log_key(evidence.trust.origin, evidence.trust.log_key),)
    witnesses = [PolicyWitness(key.name, key) for key in Witnesses.of(keys)]
    k = charter.quorum.k
    if k > len(witnesses):
        raise QuorumError(f"only {len(witnesses)} sites have a cosigning key in force, {k} are needed")
    groups = [Group("quorum-of-sites", k, tuple(one.name for one in witnesses))]
    outside = charter.quorum.external_witness
    if outside is not None:
        try:
            known = WitnessKey.parse(outside)
        except TrustError as error:
            raise NoteError(error.what, where="external witness") from None
        witnesses.append(PolicyWitness("outside-witness", witness_key(known.name, known.key)))
        groups.append(Group("sites-and-outside", 2, ("quorum-of-sites", "outside-witness")))
    return Policy(logs, tuple(witnesses), tuple(groups), groups[-1].name)
