"""A small federation with real keys, for the tests of charter, amendment and mailbox."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from counterseal.trust.charter.model import Charter
from counterseal.trust.charter.signing import SignedCharter, fingerprint, sign_charter, verify_charter
from counterseal.trust.documents import Signed
from counterseal.trust.identifiers import sha256
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.sealing import SealSuite
from counterseal.trust.keys.statement import KeyStatement, make_statement

NOW = 1_800_000_000
FEDERATION = "heart"
ORIGIN = "heart.example.org/log"
SITES = ("anna", "bert", "cleo", "dora")
_YEAR = 365 * 86_400


def keys_of(identity: str, generation: int = 1, suite: SealSuite = "MLKEM768_X25519") -> MemberKeys:
    """Keys made once a test run: they are fresh, not hard-coded."""
    return _keys(identity, generation, suite)


@functools.cache
def _keys(identity: str, generation: int, suite: SealSuite) -> MemberKeys:
    return MemberKeys.generate(suite, operator=identity.startswith("server"))


def statement_of(identity: str, keys: MemberKeys | None = None, **changes: Any) -> Signed[KeyStatement]:
    place: dict[str, Any] = {"federation": FEDERATION, "log_origin": ORIGIN, "identity": identity}
    place |= {"not_before": NOW - 1000, "not_after": NOW + _YEAR}
    return make_statement(keys or keys_of(identity), **(place | changes))


@functools.cache
def first_statement(identity: str) -> Signed[KeyStatement]:
    return statement_of(identity)


def member(identity: str, *roles: str, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"identity": identity, "name": identity.title(), "roles": list(roles or ("site",))}
    if "site" in row["roles"]:
        row["weight"] = 1.0
    row["statement"] = first_statement(identity).raw.decode()
    return row | changes


def plan(sites: tuple[str, ...] = SITES, **changes: Any) -> dict[str, Any]:
    """The JSON of a charter with a server and four sites, k = 3."""
    value: dict[str, Any] = {
        "version": 1,
        "previous": None,
        "federation": FEDERATION,
        "title": "Heart failure across four hospitals",
        "log_origin": ORIGIN,
        "group": {"id": "heart-group", "authorizer": "roster"},
        "suite": "MLKEM768_X25519",
        "members": [member("server", "server"), *(member(site) for site in sites)],
        "server": "server",
        "auditor": None,
        "quorum": {"k": 3, "f": 1},
        "cosign_lag": 4,
        "commit_before_upload": True,
        "max_staleness": 2,
        "limits": {"update_bytes": 1 << 30, "norm_bound": 100.5, "ticket_seconds": 3600, "round_seconds": 7200},
        "aggregation": {"rule": "fedavg", "clip_norm": 10.0},
        "dispute_window_seconds": 604_800,
    }
    return value | changes


def charter(**changes: Any) -> Charter:
    return Charter.from_json(plan(**changes))


@dataclass
class Signing:
    """Signs a charter for several members, with chosen keys."""

    raw: bytes
    known: dict[str, Signed[KeyStatement]] = field(default_factory=dict)

    def by(self, *identities: str, generations: dict[str, int] | None = None, **keys: MemberKeys) -> list[bytes]:
        typed = fingerprint(sha256(self.raw))
        return [
            sign_charter(
                self.raw,
                name,
                (keys.get(name) or keys_of(name, (generations or {}).get(name, 1))).signer,
                typed,
                now=NOW,
                known=self.known,
            ).raw
            for name in identities
        ]


def founded(**changes: Any) -> SignedCharter:
    """A charter in force."""
    made = charter(**changes)
    raw = made.payload()
    everybody = [one.identity for one in made.members]
    return verify_charter(raw, Signing(raw).by(*everybody), now=NOW)
