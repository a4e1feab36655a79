"""The report of a run, for people: one HTML file with no script and no outside resource.

Two readers. The *operator* sees every site's row. A *participant* (``for_site``) sees aggregates and its own rows: no other
site's norms, metrics, verdicts, reason codes or comparison. What everybody may know (members, keys, decisions by number, the
verifier's findings) is in both.

It never says more than was checked: the verifier's rows are printed as they are, what nobody checked is under NOT COVERED, and
a log without quorum is headed UNWITNESSED. Whatever came out of a log is escaped by the template (autoescape) after
`audit.show` made it harmless; a content security policy in the page forbids scripts and requests besides.

Not handled here: truth. The report is this demonstration's word; the section on checking says how to do without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ...audit.checks.evidence import Trust, gather
from ...audit.checks.findings import Status
from ...audit.checks.source import FolderSource
from ...audit.events import Event, peek_event
from ...audit.show import Row, timeline
from ...trust.charter.signing import fingerprint
from ...trust.errors import TrustError
from ...trust.terms import PrivacyTerms
from ..accounts import Account
from ..central import CentralAccount
from ..errors import ConfigError
from .baselines import CENTRALISED
from .central import server_answers
from .coverage import Claim, claims
from .figures import Series, curves_svg
from .play import DemoResult
from .privacy import Answer, answers

__all__ = ["Chapter", "ReportData", "render", "report_data"]


@dataclass(frozen=True, slots=True)
class Chapter:
    """A stretch of the log: what it is about, and its rows."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that the template shows, already reduced to what its reader may see."""

    for_site: str | None
    result: DemoResult
    bars: tuple[tuple[str, str, float], ...]
    """Kind (`federated`, `centralised`, `alone`), label, accuracy."""
    noise: float
    """Half the width of a 95 % interval around the federated accuracy, from the number of test examples."""
    curves: Mapping[str, Series]
    rounds: tuple[Mapping[str, Any], ...]
    claims: tuple[Claim, ...]
    chapters: tuple[Chapter, ...]
    keys: tuple[tuple[str, str, str, str], ...]
    """Member, roles, use, name of the key."""
    verdict: str
    """FAIL if any obligation failed, else UNDECIDED if any is, else PASS; what nobody checked is in the rows."""
    hidden: int
    """Leaves that this reader's timeline leaves out."""
    terms: PrivacyTerms | None = None
    accounts: tuple[Account, ...] = ()
    """What the reader may see of what the sites stated: its own row, or all."""
    answers: tuple[Answer, ...] = ()
    central: CentralAccount | None = None
    """Where the server adds the noise."""

    @property
    def private(self) -> bool:
        """Whether somebody adds noise."""
        return self.terms is not None or self.central is not None

    @property
    def epsilon(self) -> float:
        """The largest epsilon that a site stated."""
        if self.central is not None:
            return self.central.epsilon
        return max((one.stated for one in self.result.accounts), default=0.0)

    @property
    def agrees(self) -> bool:
        """Whether every stated epsilon is what the terms come to."""
        return all(one.agrees for one in self.result.accounts)


def report_data(result: DemoResult, *, for_site: str | None = None) -> ReportData:
    """Return what the report for the operator, or for the participant ``for_site``, shows.

    Raises:
        ConfigError: ``for_site`` is no site of this run.
    """
    if for_site is not None and for_site not in result.founded.site_configs:
        raise ConfigError(f"{for_site} is no site of this run", where="for_site")
    curves = _curves(result, for_site)
    accuracy = result.federated[-1][2]
    chapters, hidden = _chapters(result, for_site)
    return ReportData(
        for_site=for_site,
        result=result,
        bars=tuple(
            (name if name in ("federated", CENTRALISED) else "alone", _label(name, result), points[-1][2])
            for name, points in curves.items()
        ),
        noise=1.96 * math.sqrt(max(accuracy * (1 - accuracy), 1 / result.tests) / result.tests),
        curves=curves,
        rounds=tuple(_round(one, for_site) for one in result.rounds),
        claims=claims(result),
        chapters=chapters,
        keys=_keys(result),
        verdict=_verdict(result),
        hidden=hidden,
        terms=result.terms,
        accounts=tuple(one for one in result.accounts if for_site in (None, one.site)),
        answers=_answers(result),
        central=result.central,
    )


def _answers(result: DemoResult) -> tuple[Answer, ...]:
    if result.central is not None:
        return server_answers(result.central, result.parameters)
    return () if result.terms is None else answers(result.terms, result.accounts)


def render(data: ReportData) -> str:
    """Return the report as HTML."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["fingerprint"] = fingerprint
    environment.filters["percent"] = lambda value: f"{value:.1%}"
    template = environment.from_string(resources.files(__package__).joinpath("report.html").read_text("utf-8"))
    figure = Markup(curves_svg(data.curves))  # noqa: S704  (drawn here; matplotlib escapes its labels)
    charter = data.result.founded.charter.charter
    return template.render(data=data, result=data.result, run=data.result.run, charter=charter, figure=figure)


def _verdict(result: DemoResult) -> str:
    found = {row.status for row in result.findings.rows}
    return next((status.value for status in (Status.FAIL, Status.UNDECIDED) if status in found), Status.PASS.value)


def _label(name: str, result: DemoResult) -> str:
    label = name if name in ("federated", CENTRALISED) else f"{name} alone"
    return f"{label}, unprotected" if result.settings.privacy and name != "federated" else label


def _curves(result: DemoResult, for_site: str | None) -> dict[str, Series]:
    found: dict[str, Series] = {"federated": result.federated}
    for name, curve in result.curves.items():
        if for_site in (None, name) or name == CENTRALISED:
            points = zip(curve.loss, curve.accuracy, strict=True)
            found[name] = [(number, loss, accuracy) for number, (loss, accuracy) in enumerate(points)]
    order = {"federated": 0, CENTRALISED: 1}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], 2)))


def _round(one: Mapping[str, Any], for_site: str | None) -> dict[str, Any]:
    """Return a round with its aggregates, and the rows that the reader may see."""
    verdicts = [site["verdict"] for site in one["sites"]]
    return {
        "number": one["version"] + 1,
        "committed": one["committed"],
        # A round's reason may name nobody: it is one code of the server's.
        "reason": one["reason"],
        "asked": len(verdicts),
        "admitted": verdicts.count("admitted"),
        "bytes": sum(site["bytes"] for site in one["sites"]),
        "seconds": one["seconds"],
        "leaves": one["leaves"],
        "evaluation": one["evaluation"],
        "sites": [site for site in one["sites"] if for_site in (None, site["site"])],
    }


def _keys(result: DemoResult) -> tuple[tuple[str, str, str, str], ...]:
    charter = result.founded.charter
    rows = []
    for member in charter.charter.members:
        statement = charter.statements[member.identity].document
        roles = ", ".join(member.roles)
        rows.append((member.identity, roles, "sign", statement.sign.key_id))
        if statement.checkpoint is not None:
            rows.append((member.identity, roles, "checkpoint (the log's)", statement.checkpoint.key_id))
        elif "site" in member.roles:
            rows.append((member.identity, roles, "cosign", statement.cosign.key_id))
    return tuple(rows)


def _chapters(result: DemoResult, for_site: str | None) -> tuple[tuple[Chapter, ...], int]:
    """Return the log as a table of contents: the founding, each version, the end; and how many rows were left out."""
    evidence = gather(FolderSource(result.founded.folder / "server" / "log"), Trust(result.founded.charter))
    found: dict[str, list[Row]] = {}
    hidden = 0
    for leaf, row in zip(evidence.leaves, timeline(evidence.leaves), strict=True):
        shown = _shown(leaf, row, for_site, frozenset(result.founded.site_configs))
        if shown is None:
            hidden += 1
        else:
            found.setdefault(_chapter(row, result), []).append(shown)
    return tuple(Chapter(title, tuple(rows)) for title, rows in found.items()), hidden


def _chapter(row: Row, result: DemoResult) -> str:
    if not row.version:
        return "Founding and start"
    over = result.run.outcome == "completed" and int(row.version) >= result.run.versions
    return "Release and end" if over or row.type == "run.end" else f"Round {int(row.version) + 1}"


def _shown(leaf: bytes, row: Row, for_site: str | None, sites: frozenset[str]) -> Row | None:
    """Return ``row`` as the reader may see it; None if it is about another site."""
    if for_site is None:
        return row
    try:
        event = peek_event(leaf)
    except TrustError:
        return row
    if _about(event, sites) not in (None, for_site):
        return None
    # What became of others stands in these two; their number is an aggregate, their names and reasons are not.
    if event.type == "aggregate.commit":
        inputs = len(getattr(event, "inputs", ()))
        return _saying(row, f"{inputs} updates count, {len(getattr(event, 'excluded', ()))} left out")
    if event.type == "round.abort":
        return _saying(row, str(getattr(event, "reason", "")))
    return row


def _about(event: Event, sites: frozenset[str]) -> str | None:
    """Return the site whose doing or fate the event is; None for what concerns everybody."""
    decision = getattr(event, "decision", None)
    about = getattr(event, "site", None) or (decision.identity if decision is not None else None)
    if event.type == "clock.skew":
        about = getattr(event, "identity", None)
    return about or (event.actor if event.actor in sites else None)


def _saying(row: Row, says: str) -> Row:
    return Row(row.index, row.time, row.actor, row.type, row.run, row.version, says)
