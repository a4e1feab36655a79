"""A federation of a server and three sites, and the story of one run, told leaf by leaf into a real log.

`tell` says every event through `Story.say` under a name; an attack replaces what is said under one name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from counterseal.audit.events import (
    AggregateCommit,
    Decision,
    Event,
    Excluded,
    FederationCreate,
    Input,
    MemberAdd,
    ModelRelease,
    Place,
    ReceiptFile,
    RoundAbort,
    RoundOpen,
    RunEnd,
    RunStart,
    TicketIssue,
    UpdateAdmit,
    UpdateReject,
)
from counterseal.audit.tlog.cosignature import cosign
from counterseal.audit.tlog.log import Log
from counterseal.trust.charter.model import Aggregation, Charter, Group, Limits, Member, QuorumTerms
from counterseal.trust.charter.signing import SignedCharter, sign_charter, verify_charter
from counterseal.trust.documents import sign
from counterseal.trust.identifiers import sha256
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.signing import Signer
from counterseal.trust.keys.statement import make_statement

NOW = 1_800_000_000
FEDERATION = "test-federation"
ORIGIN = "fed.example/log"
SERVER = "server@fed.example"
SITES = ("site-a@fed.example", "site-b@fed.example", "site-c@fed.example")
RULE = "norm-clipped-fedavg"

Said = list[tuple[str, Event]]
Attack = Callable[["Story", str, Any], Said]


def digest(name: str) -> str:
    return sha256(name.encode())


@cache
def federation() -> tuple[SignedCharter, dict[str, MemberKeys]]:
    """The charter and everybody's keys; made once, since key generation is slow."""
    keys = {name: MemberKeys.generate(operator=name == SERVER) for name in (SERVER, *SITES)}
    members = tuple(
        Member(
            identity=name,
            name=name,
            roles=("server",) if name == SERVER else ("site",),
            weight=None if name == SERVER else 1.0 + SITES.index(name),
            statement=statement(name, keys[name]).raw.decode(),
        )
        for name in keys
    )
    charter = Charter(
        version=1,
        previous=None,
        federation=FEDERATION,
        title="A federation for tests",
        log_origin=ORIGIN,
        group=Group(id="test-group", authorizer="roster"),
        suite="MLKEM768_X25519",
        members=members,
        server=SERVER,
        quorum=QuorumTerms(k=3, f=1),
        cosign_lag=1,
        commit_before_upload=False,
        max_staleness=0,
        limits=Limits(update_bytes=1 << 30, norm_bound=100.0, ticket_seconds=60, round_seconds=60),
        aggregation=Aggregation(rule=RULE, clip_norm=1.0),
        dispute_window_seconds=86_400,
    )
    raw = charter.payload()
    signatures = [sign_charter(raw, name, keys[name].signer, sha256(raw), now=NOW).raw for name in keys]
    return verify_charter(raw, signatures, now=NOW), keys


def statement(name: str, keys: MemberKeys, **changes: Any) -> Any:
    return make_statement(
        keys,
        federation=FEDERATION,
        identity=name,
        log_origin=ORIGIN,
        not_before=NOW - 10,
        not_after=NOW + 86_400,
        **changes,
    )


class Story:
    """Writes events into a log as honestly as the ``attacks`` let it."""

    def __init__(self, folder: Path, attacks: dict[str, Attack] | None = None) -> None:
        self.charter, self.keys = federation()
        checkpoint = self.keys[SERVER].checkpoint
        assert checkpoint is not None
        self.folder = folder
        self.log = Log.open(folder, ORIGIN, checkpoint)
        self.attacks = attacks or {}
        self.signers: dict[str, Signer] = {name: keys.signer for name, keys in self.keys.items()}
        self.cosigners: tuple[str, ...] = SITES
        self.receipts: dict[str, str] = {}
        self.objects: dict[str, bytes] = {}

    def say(self, name: str, actor: str, event: Event) -> str:
        """Append the event called ``name``, or what the attack on it makes of it; return the last digest."""
        attack = self.attacks.get(name)
        said = [(actor, event)] if attack is None else attack(self, actor, event)
        last = ""
        for who, what in said:
            signed = sign(what, self.signers[who])
            self.log.append([signed.raw])
            last = signed.digest
        return last

    def about(self, actor: str) -> dict[str, Any]:
        return {"federation": FEDERATION, "actor": actor, "time": NOW}

    def decision(self, site: str) -> Decision:
        return Decision(identity=site, role="site", allowed=True, reason="active", source="roster", time=NOW)

    def publish(self) -> None:
        self.log.checkpoint()
        published = self.log.published
        assert published is not None
        lines = [cosign(published, self.keys[name].cosigner, name, NOW) for name in self.cosigners]
        self.log.add_cosignatures(published.size, lines)

    def receipt(self, site: str, ticket: str, version: int, seq: int, **changes: Any) -> ReceiptFile:
        seen = self.log.published
        assert seen is not None
        values = {
            **self.about(site),
            "run": "run-1",
            "version": version,
            "ticket": ticket,
            "seq": seq,
            "kind": "train",
            "outcome": "done",
            "manifest": digest(f"manifest {site} {version}"),
            "checkpoint": Place(size=seen.size, root=seen.root.hex()),
            "cosignature": cosign(seen, self.keys[site].cosigner, site, NOW),
            "environment": digest("environment"),
            "previous": self.receipts.get(site),
        }
        return ReceiptFile(**{**values, **changes})


def tell(story: Story, rounds: int = 2) -> Story:
    """Tell the whole run: founding, start, rounds with one aborted try and one rejected update, release, end."""
    found(story)
    model = digest("model 0")
    for version in range(rounds):
        if version == 1:
            open_round(story, "failed", version, model, 0, SITES)
            left_out = tuple(Excluded(site=site, reason="outage") for site in SITES)
            abort = RoundAbort(
                **story.about(SERVER), run="run-1", version=version, attempt=0, reason="outage", excluded=left_out
            )
            story.say("abort", SERVER, abort)
        model = one_round(story, version, model)
        story.publish()
    finish(story, rounds, model)
    story.publish()
    story.log.close()
    return story


def found(story: Story) -> None:
    about = story.about(SERVER)
    create = FederationCreate(
        **about, charter=story.charter.digest, signatures=(digest("signature"),), authorizer="roster"
    )
    story.say("create", SERVER, create)
    for member in story.charter.charter.members:
        signed = story.charter.statements[member.identity]
        add = MemberAdd(**about, identity=member.identity, roles=member.roles, statement=signed.digest)
        story.say(f"add {member.identity}", SERVER, add)
    start = RunStart(
        **about,
        run="run-1",
        charter=story.charter.digest,
        config={},
        schema_digest=digest("schema"),
        rule=RULE,
        parameters={"clip_norm": 1.0},
        model=digest("model 0"),
        suite="MLKEM768_X25519",
        seal_key="AAAA",
        environment=digest("environment"),
    )
    story.say("start", SERVER, start)
    story.publish()


def open_round(story: Story, name: str, version: int, model: str, attempt: int, sites: Sequence[str]) -> None:
    event = RoundOpen(
        **story.about(SERVER),
        run="run-1",
        version=version,
        attempt=attempt,
        parent=model,
        manifest=digest(f"manifest {version}"),
        participants=tuple(sites),
        decisions=tuple(story.decision(site) for site in sites),
    )
    story.say(f"open {name}", SERVER, event)


def one_round(story: Story, version: int, model: str) -> str:
    open_round(story, str(version), version, model, 1, SITES)
    about = {**story.about(SERVER), "run": "run-1", "version": version}
    tickets = {site: digest(f"ticket {site} {version}") for site in SITES}
    for site, ticket in tickets.items():
        issue = TicketIssue(**about, ticket=ticket, site=site, seq=version + 1, kind="train", not_after=NOW + 60)
        story.say(f"ticket {version} {site}", SERVER, issue)
    story.publish()
    for site, ticket in tickets.items():
        receipt = story.receipt(site, ticket, version, version + 1)
        story.receipts[site] = story.say(f"receipt {version} {site}", site, receipt) or digest("never said")
    story.publish()
    inputs = []
    for site, ticket in tickets.items():
        verdict = {**about, "site": site, "ticket": ticket, "receipt": story.receipts[site]}
        if (version, site) == (0, SITES[2]):
            story.say("reject", SERVER, UpdateReject(**verdict, reasons=("norm_bound",)))
            continue
        manifest = digest(f"manifest {site} {version}")
        admit = UpdateAdmit(**verdict, manifest=manifest, statistics=digest("s"), decision=story.decision(site))
        story.say(f"admit {version} {site}", SERVER, admit)
        weight = story.charter.charter.weights[site]
        inputs.append(Input(site=site, ticket=ticket, manifest=manifest, weight=weight, coefficient=digest("c")))
    used = [item.site for item in inputs]
    commit = AggregateCommit(
        **about,
        attempt=0,
        parent=model,
        inputs=tuple(inputs),
        excluded=tuple(Excluded(site=site, reason="rejected") for site in SITES if site not in used),
        rule=RULE,
        parameters={"clip_norm": 1.0},
        output=digest(f"model {version + 1}"),
        manifest=digest(f"manifest {version + 1}"),
        decisions=tuple(story.decision(site) for site in used),
    )
    story.say(f"commit {version}", SERVER, commit)
    return digest(f"model {version + 1}")


def finish(story: Story, version: int, model: str) -> None:
    published = story.log.published
    assert published is not None
    about = {**story.about(SERVER), "run": "run-1", "version": version, "model": model}
    release = ModelRelease(
        **about,
        manifest=digest("release"),
        checkpoint=Place(size=published.size, root=published.root.hex()),
        witnesses=SITES,
        recipients=SITES,
    )
    story.say("release", SERVER, release)
    story.say("end", SERVER, RunEnd(**about, outcome="completed", witnessed=True))
