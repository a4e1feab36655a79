"""`SitePolicy`: what a site's officer allows, asked before anything leaves.

    policy = SitePolicy.load(path)                # or SitePolicy.default()
    verdict = policy.decide(request)              # never raises

Rules that hold for every decision:

 1. Nothing is allowed unless a ``permit`` applies and no ``forbid`` does (Cedar's own rule).
 2. Any error denies: a fact that cannot be a schema-valid value, a policy that fails while it is evaluated (Cedar would skip it,
    be it a ``forbid``), a crash of the library. `Verdict.errors` says so, here at the site only.
 3. Whatever the policy says, a population is not taken over its cap: that comparison is plain code here, and again in the ledger.
 4. A verdict is for this site's own log. What the server learns of a denial is one reason code, which the caller sends: neither
    which policy denied, nor whether it was one.

``digest`` names the policy: SHA-256 over the canonical JSON of the SHA-256 of the policy's and the schema's bytes. One changed
byte in either, comments too, is another policy; the site signs the digest with what it sends in each round.

Not handled here: that a denial is itself one bit of information (that a budget is spent elsewhere, for example); who may change
the file; a condition that can never be true, which the validator warns of but its Python interface does not show.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Self

from ..canonical import canonical
from ..errors import SitePolicyError
from ..identifiers import sha256
from .engine import ParsedPolicy, Rules
from .request import PolicyRequest, question
from .text import Statement, read_policy_file, read_text, statements

__all__ = ["OVER_CAP", "Policy", "SitePolicy", "Verdict", "default_text", "schema_text"]

OVER_CAP = "builtin:epsilon-cap"
"""The reason of rule 3; no policy in a file can have this name."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ANNOTATIONS = {"id", "advice"}


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy of the file, for people."""

    id: str
    effect: str
    advice: str
    line: int
    parsed: ParsedPolicy
    written: Statement


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision: ``reasons`` are the ids of the policies that decided. For this site only."""

    allowed: bool
    reasons: tuple[str, ...]
    errors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.allowed and (self.errors or not self.reasons):
            raise ValueError("allowed, but with errors or without a policy that says so")


class SitePolicy:
    """A policy set that parsed, fits the schema, and has a name for every policy. Immutable; threads may share it."""

    def __init__(self, data: bytes, *, file: str = "policy") -> None:
        """Read the bytes of a policy file; ``file`` is the name that errors show.

        Raises:
            SitePolicyError: anything that Cedar, the schema or this class does not take; ``where`` is ``file:line``.
        """
        text, schema = read_text(data, file), schema_text()
        written = statements(text, file)
        self._rules = Rules(text, schema.decode(), written, file=file)
        self.policies = tuple(_named(one, written[one.number], file) for one in self._rules.policies)
        self._require_unique(file)
        self.digest = sha256(canonical({"policy": sha256(data), "schema": sha256(schema)}))
        """Names these bytes and the schema."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a policy file that nobody but its owner can write.

        Raises:
            SitePolicyError: see `read_policy_file` and `__init__`.
            OSError: it cannot be read.
        """
        return cls(read_policy_file(path), file=path.name)

    @classmethod
    def default(cls) -> Self:
        """Return the policy that comes with this version."""
        return cls(default_text(), file="default.cedar")

    def decide(self, request: PolicyRequest) -> Verdict:
        """Decide; never raises, and denies whatever it cannot decide."""
        try:
            asked, entities = question(request)
        except SitePolicyError as error:
            return Verdict(False, (), (str(error),))
        except Exception as error:  # noqa: BLE001  (a request of a wrong type is a bug of ours, and still a "no")
            return Verdict(False, (), (f"the request cannot be read ({type(error).__name__})",))
        answer = self._rules.ask(asked, entities)
        reasons = tuple(self.policies[number].id for number in answer.numbers)
        if answer.errors:
            return Verdict(False, (), answer.errors)
        if answer.allowed and _over_cap(request):
            return Verdict(False, (OVER_CAP,))
        return Verdict(answer.allowed and bool(reasons), reasons)

    def policy(self, name: str) -> Policy | None:
        """Return the policy called ``name``."""
        return next((policy for policy in self.policies if policy.id == name), None)

    def _require_unique(self, file: str) -> None:
        seen: set[str] = set()
        for policy in self.policies:
            if policy.id in seen:
                raise SitePolicyError(f"a second policy called {policy.id}", where=f"{file}:{policy.line}")
            seen.add(policy.id)


def default_text() -> bytes:
    """Return the bytes of the policy that comes with this version."""
    return files(__package__).joinpath("default.cedar").read_bytes()


def schema_text() -> bytes:
    """Return the bytes of the schema."""
    return files(__package__).joinpath("schema.cedarschema").read_bytes()


def _named(parsed: ParsedPolicy, written: Statement, file: str) -> Policy:
    where = f"{file}:{written.line}"
    name, advice = parsed.annotations.get("id") or "", parsed.annotations.get("advice") or ""
    if not _NAME.fullmatch(name):
        what = "a policy without a name" if not name else "a name that is not made of a-z, 0-9 and -"
        raise SitePolicyError(what, where=where, remedy='Put @id("its-name") before it.')
    if unknown := parsed.annotations.keys() - _ANNOTATIONS:
        raise SitePolicyError(
            f"an annotation @{min(unknown)} that nobody reads", where=where, remedy="Use @id and @advice."
        )
    if len(advice) > 500 or not advice.isprintable():
        raise SitePolicyError("an @advice that is over 500 characters or not printable", where=where)
    return Policy(name, parsed.effect, advice, written.line, parsed, written)


def _over_cap(request: PolicyRequest) -> bool:
    after, cap = request.epsilon_after, request.epsilon_cap
    return after is not None and cap is not None and not after <= cap
