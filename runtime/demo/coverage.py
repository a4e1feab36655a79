"""What a demonstration's run protects, and what it does not: every claim with what it rests on in this very run."""

from __future__ import annotations

from dataclasses import dataclass

from ...audit.checks.findings import Status
from ...trust.charter.model import Caveat
from ..central import CentralAccount
from .central import how_bad, in_a_sentence, trusted
from .play import DemoResult

__all__ = ["Claim", "claims"]

_OWN = ("globus", "roster", "unwitnessed")
"""Caveats that have claims of their own here."""


@dataclass(frozen=True, slots=True)
class Claim:
    """``state`` is ``yes``, ``NO``, ``NOT COVERED`` or ``UNWITNESSED``; ``because`` is the ground, from this run."""

    subject: str
    state: str
    because: str


def claims(result: DemoResult) -> tuple[Claim, ...]:
    """Return the claims in the order of a reader's questions."""
    return (
        _sealing(result),
        _signing(result),
        _log(result),
        _witnesses(result),
        _membership(result),
        _screening(result),
        *_metrics(result),
        *_privacy(result),
        Claim(
            "Against the server's operator",
            "NOT COVERED",
            "The server opens each update in memory to screen and add it; whoever runs it could look.",
        ),
        Claim(
            "Separation of the parties",
            "NOT COVERED",
            "This was a demonstration: all parties' keys and data lie on one machine under one user.",
        ),
        *(_caveat(one) for one in result.founded.charter.charter.warnings() if one.code not in _OWN),
    )


def _caveat(one: Caveat) -> Claim:
    text = one.text.removeprefix("NOT COVERED: ")
    return Claim("The charter's own caveat", "NOT COVERED", text[:1].upper() + text[1:])


def _passed(result: DemoResult, *ids: str) -> bool:
    return all(result.findings.row(one).status is Status.PASS for one in ids)


def _sealing(result: DemoResult) -> Claim:
    sealed = result.sealed
    return Claim(
        "Parameters are ciphertext wherever they are stored",
        "yes",
        f"{sealed.models} models and {sealed.updates} updates, {sealed.bytes:,} bytes, encrypted to their recipients' keys "
        f"({sealed.suite}) before they were stored.",
    )


def _metrics(result: DemoResult) -> tuple[Claim, ...]:
    found = result.sealed.metrics
    because = (
        f"{found} answers of sites carry their loss and accuracy, sealed to the server's key of this run and committed to "
        f"in the "
        "log. The server reads them exactly as computed."
    )
    return (Claim("Metrics are ciphertext for store and transport", "yes", because),) if found else ()


def _signing(result: DemoResult) -> Claim:
    return Claim(
        "Every decision is signed by who took it",
        "yes" if _passed(result, "6", "7", "9") else "NO",
        f"{result.findings.size} leaves, each under a key that the charter names for its author.",
    )


def _log(result: DemoResult) -> Claim:
    return Claim(
        "The log only grew, and the story in it is whole",
        "yes" if _passed(result, "1", "2", "3", "4", "8", "10", "11") else "NO",
        "The verifier rebuilt the Merkle tree under every checkpoint and replayed the order of rounds, verdicts and commits.",
    )


def _witnesses(result: DemoResult) -> Claim:
    charter, run = result.founded.charter.charter, result.run
    quorum, n = charter.quorum, len(charter.sites)
    good = run.witnessed and _passed(result, "5") and not quorum.unwitnessed
    because = (
        f"{len(run.cosigners)} of {n} sites cosigned the last commit ({', '.join(run.cosigners)}); {quorum.k} are needed, so "
        f"that two different histories could not both be witnessed unless more than {quorum.f} site lies."
        if good
        else "No quorum of sites excludes that the server showed different logs to different parties."
    )
    return Claim("One history for everybody", "yes" if good else "UNWITNESSED", because)


def _membership(result: DemoResult) -> Claim:
    return Claim(
        "Only members take part",
        "yes" if _passed(result, "12") else "NO",
        f"Asked when a ticket is sent, when its update is admitted and when the aggregate is committed. {_source(result)}",
    )


def _source(result: DemoResult) -> str:
    group = result.founded.charter.charter.group
    if group.authorizer == "roster":
        return "The answers come from a roster file, which stands in for a Globus group: who can write it decides who is in."
    return (
        f"The answers come from the Globus group {group.id}; in this demonstration Globus' services are themselves a stand-in "
        "on this machine."
    )


def _privacy(result: DemoResult) -> tuple[Claim, ...]:
    terms, found = result.terms, result.accounts
    if result.central is not None:
        return _central(result.central, result)
    if terms is None:
        because = (
            "This run used no differential privacy and claims no epsilon. Updates and metrics were released exactly as "
            "computed and can "
            "say something about single records."
        )
        return (Claim("Privacy of the records", "NOT COVERED", because),)
    what = "the site's data as a whole" if terms.unit == "site" else f"each {terms.unit}"
    good = bool(found) and all(one.agrees for one in found)
    most = max((one.stated for one in found), default=0.0)
    stated = (
        f"{terms.mechanism}, noise added by each site itself: epsilon at most {most:g} at delta {terms.delta:g} "
        f"({terms.adjacency}) for all that it released in this run, computed again from the log. "
        "The comparisons with sites alone and centralised training are unprotected, and left nobody's hands here."
    )
    return (
        Claim(f"Differential privacy of {what}", "yes" if good else "NO", stated),
        Claim(
            "A ledger of what was spent",
            "yes" if result.debited else "NO",
            "Each site's own ledger was opened: it holds as many debits as the site stated, under the head that it "
            "signed, and its anchor "
            "agrees. Here ledger and anchor lie on one disk: who restores that disk as a whole restores both.",
        ),
        Claim(
            "That the noise was drawn",
            "NOT COVERED",
            "It is each site's word, under its signature. A site that lied would harm its own people's privacy, not the "
            "others'.",
        ),
    )


def _central(account: CentralAccount, result: DemoResult) -> tuple[Claim, ...]:
    bad = account.terms.noise_norm(result.parameters) > account.terms.rule.clip_norm
    return (
        Claim("Differential privacy of each site, for those who see models only", "yes", in_a_sentence(account)),
        Claim("Privacy from the server and the auditor", "NOT COVERED", trusted()),
        Claim("That the noise is smaller than a step", "NO" if bad else "yes", how_bad(account, result.parameters)),
        Claim(
            "That the noise was drawn",
            "NOT COVERED",
            "It is the server's word. This demonstration has no auditor, who could recompute each version and see how much "
            "noise there was.",
        ),
        Claim(
            "A ledger of what was spent",
            "NOT COVERED",
            "The sites' ledgers hold nothing of this run: no site added noise, and no site can check that the server did.",
        ),
    )


def _screening(result: DemoResult) -> Claim:
    verdicts = [site["verdict"] for one in result.rounds for site in one["sites"]]
    admitted, rejected = verdicts.count("admitted"), verdicts.count("rejected")
    return Claim(
        "Malformed updates are rejected",
        "yes",
        f"{admitted} updates admitted, {rejected} rejected by fixed rules; one update counts at most with L2 norm "
        f"{result.clip:g}. An update can be well-formed and harmful all the same.",
    )
