"""Witness policies: whose cosignatures make a checkpoint count (C2SP tlog-policy).

    log counterseal.example/f7+1a2b3c4d+AQ...
    witness site-a site-a.example+5e6f7081+BA...
    witness site-b site-b.example+92a3b4c5+BA...
    witness irb irb.example+d6e7f809+BA...
    group sites 2 site-a site-b
    group all-of-us all sites irb
    quorum all-of-us

A group or quorum refers only to names on lines before it, and a name is a member at most once in the whole file: a
witness counts in one way only. Names live in the file alone; keys are what is checked, none listed twice. ``quorum none``
asks for nobody and is visible as `Policy.quorum` None, so that a report can say UNWITNESSED.

Source: c2sp.org/tlog-policy.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from ...trust.errors import KeyFault
from ..errors import NoteError, PolicyError, QuorumError
from .cosignature import CosignedCheckpoint, Witnesses
from .note import NoteKey, NoteType

__all__ = ["Group", "Policy", "PolicyWitness"]

_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class PolicyWitness:
    """A witness under its name in the policy."""

    name: str
    key: NoteKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """At least ``threshold`` of ``members`` (witnesses or groups named before)."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """The logs that are accepted, the witnesses that are known, and the quorum: a name, or None for nobody.

    Raises:
        PolicyError: names or keys given twice, members unknown or used twice, a threshold that cannot be met.
    """

    logs: tuple[NoteKey, ...]
    witnesses: tuple[PolicyWitness, ...]
    groups: tuple[Group, ...] = ()
    quorum: str | None = None

    def __post_init__(self) -> None:
        if any(key.type is not NoteType.ED25519 for key in self.logs):
            raise PolicyError("a log's key is of type 01", where="policy")
        if len({key.key.public for key in self.logs}) != len(self.logs):
            raise PolicyError("a log given twice", where="policy")
        _check_witnesses(self.witnesses)
        known, used = {one.name for one in self.witnesses}, set[str]()
        for group in self.groups:
            _check_group(group, known, used)
            known.add(group.name)
        if self.quorum is not None and self.quorum not in known:
            raise PolicyError("the quorum names nobody defined before", where="policy")

    @classmethod
    def k_of(cls, logs: tuple[NoteKey, ...], witnesses: Witnesses, k: int) -> Policy:
        """Return the policy that ``k`` of the ``witnesses`` cosign; they go by the names of their keys."""
        members = tuple(PolicyWitness(key.name, key) for key in witnesses)
        if k == 0:
            return cls(logs, members)
        return cls(logs, members, (Group("quorum-of-all", k, tuple(one.name for one in members)),), "quorum-of-all")

    def satisfied(self, cosigners: Collection[str]) -> bool:
        """Return whether these witnesses (their names in the policy) make a quorum."""
        if self.quorum is None:
            return True
        true = {one.name for one in self.witnesses} & set(cosigners)
        for group in self.groups:
            if sum(member in true for member in group.members) >= group.threshold:
                true.add(group.name)
        return self.quorum in true

    def cosigners(self, checkpoint: CosignedCheckpoint) -> dict[str, int]:
        """Return policy name -> time (seconds since 1970) of each known witness whose cosignature holds.

        Raises:
            CheckpointError: a known witness's line does not hold.
        """
        # Key names may differ from policy names, and two keys may share a key name: look at one at a time.
        found: dict[str, int] = {}
        for one in self.witnesses:
            for time in checkpoint.witnessed_by([one.key]).values():
                found[one.name] = time
        return found

    def require(self, checkpoint: CosignedCheckpoint) -> dict[str, int]:
        """Return the cosigners (see `cosigners`) if they make a quorum.

        Raises:
            CheckpointError: a known witness's line does not hold.
            QuorumError: they do not make a quorum.
        """
        found = self.cosigners(checkpoint)
        if not self.satisfied(found):
            raise QuorumError(
                f"{len(found)} of {len(self.witnesses)} known witnesses cosigned, which is no quorum",
                where=f"checkpoint of {checkpoint.checkpoint.origin} at {checkpoint.checkpoint.size}",
                remedy="Wait for more witness tickets to be answered, or show that the missing sites are out.",
            )
        return found

    def to_text(self) -> str:
        """Return the policy's file."""
        lines = [f"log {key.vkey()}" for key in self.logs]
        lines += [f"witness {one.name} {one.key.vkey()} {one.url}".rstrip() for one in self.witnesses]
        lines += [f"group {one.name} {one.threshold} {' '.join(one.members)}" for one in self.groups]
        return "\n".join([*lines, f"quorum {self.quorum or 'none'}"]) + "\n"

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Return the policy that a file's ``text`` spells.

        Raises:
            PolicyError: a line that is none of the four, or see `Policy`.
        """
        if len(text) > _MAX or any(c < " " and c not in "\t\n" for c in text) or "\x7f" in text:
            raise PolicyError("too long, or with control characters", where="policy")
        draft = _Draft()
        for number, line in enumerate(text.split("\n"), 1):
            words = line.replace("\t", " ").split(" ")
            words = [word for word in words if word]
            if words and not words[0].startswith("#"):
                try:
                    draft.add(words)
                except (NoteError, KeyFault) as error:
                    raise PolicyError(error.what, where=f"policy line {number}") from None
                except PolicyError as error:
                    raise PolicyError(error.what, where=f"policy line {number}") from None
        if draft.quorum is None:
            raise PolicyError("no quorum line", where="policy", remedy="Write `quorum none` to ask for nobody.")
        quorum = None if draft.quorum == "none" else draft.quorum
        return cls(tuple(draft.logs), tuple(draft.witnesses), tuple(draft.groups), quorum)


@dataclass(slots=True)
class _Draft:
    """The lines read so far."""

    logs: list[NoteKey] = field(default_factory=list)
    witnesses: list[PolicyWitness] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    quorum: str | None = None
    names: set[str] = field(default_factory=set)

    def add(self, words: list[str]) -> None:
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                self.logs.append(NoteKey.from_vkey(vkey))
            case ["witness", name, vkey, *url] if len(url) <= 1:
                self._define(name)
                self.witnesses.append(PolicyWitness(name, NoteKey.from_vkey(vkey), *url))
            case ["group", name, threshold, *members] if members:
                self._refer(members)
                self._define(name)
                self.groups.append(Group(name, _threshold(threshold, len(members)), tuple(members)))
            case ["quorum", name]:
                if self.quorum is not None:
                    raise PolicyError("a second quorum line")
                if name != "none":
                    self._refer([name])
                self.quorum = name
            case _:
                raise PolicyError("not a log, witness, group or quorum line")

    def _define(self, name: str) -> None:
        if name in self.names or name == "none":
            raise PolicyError("a name defined twice, or the name none")
        self.names.add(name)

    def _refer(self, names: list[str]) -> None:
        if not self.names.issuperset(names):
            raise PolicyError("a name that no line before defines")


def _threshold(word: str, members: int) -> int:
    if word in ("all", "any"):
        return members if word == "all" else 1
    if not word.isascii() or not word.isdecimal() or len(word) > 4:
        raise PolicyError("a threshold is all, any or a number")
    return int(word)


def _check_witnesses(witnesses: tuple[PolicyWitness, ...]) -> None:
    if any(one.key.type is not NoteType.COSIGNATURE for one in witnesses):
        raise PolicyError("a witness's key is of type 04", where="policy")
    if len({one.key.key.public for one in witnesses}) != len(witnesses):
        raise PolicyError("two witnesses of one key: it would count twice", where="policy")
    names = [one.name for one in witnesses]
    if len(set(names)) != len(names):
        raise PolicyError("two witnesses of one name", where="policy")
    for name in names:
        _check_name(name)


def _check_group(group: Group, known: set[str], used: set[str]) -> None:
    _check_name(group.name)
    if group.name in known:
        raise PolicyError("a name defined twice", where="policy")
    if not 1 <= group.threshold <= len(group.members):
        raise PolicyError("a threshold outside 1 to the number of members", where="policy")
    for member in group.members:
        if member not in known or member in used:
            raise PolicyError("a member that is not defined before, or is a member already", where="policy")
        used.add(member)


def _check_name(name: str) -> None:
    if not name or name == "none" or any(c in " \t\n" or c < " " or c == "\x7f" for c in name):
        raise PolicyError("a name is a word other than none", where="policy")
