"""`counterseal policy`: read, check and question the policy that decides what leaves a site. Nothing is asked of anybody else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .output import JsonFlag, emit, fields, jsonable, plain, typed_values

if TYPE_CHECKING:
    from ...trust.policy.policy import Policy, SitePolicy, Verdict
    from ...trust.policy.request import PolicyRequest

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Write and question the policy of a site, in Cedar."
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The policy: a Cedar file that nobody else can write.")]
ActionName = Literal["train", "evaluate", "receive", "releaseMetrics"]
Mechanism = Literal["dp-sgd", "output-gaussian", "output-laplace", "none"]


@app.command()
def check(file: File, as_json: JsonFlag = False) -> None:
    """Check that a policy is well-formed and fits the schema; warn of what is probably not meant; print its digest.

    Exit code 1 if the policy cannot be used; warnings do not change it.

    Example: counterseal policy check site.cedar
    """
    from ...trust.policy.lints import actions_of, lints
    from ...trust.policy.policy import SitePolicy

    policy = SitePolicy.load(file)
    rows = [
        {"id": one.id, "effect": one.effect, "actions": list(actions_of(one)), "line": one.line, "advice": one.advice}
        for one in policy.policies
    ]
    warnings = [{"policy": one.policy, "line": one.line, "text": one.text} for one in lints(policy)]
    if as_json:
        emit({"file": str(file), "digest": policy.digest, "policies": rows, "warnings": warnings})
        return
    fields({"ok": str(file), "digest": policy.digest})
    for one in policy.policies:
        typer.echo(f"{one.line:>5}  {one.effect}  {one.id}: {', '.join(actions_of(one))}")
    for warning in warnings:
        name = warning["policy"] or "the file"
        typer.echo(plain(f"warning: line {warning['line']}, {name}: {warning['text']}"))


@app.command("default")
def show_default() -> None:
    """Print the policy that applies where a site names none: commented, to be copied and changed.

    Example: counterseal policy default > site.cedar
    """
    from ...trust.policy.policy import default_text

    typer.echo(default_text().decode(), nl=False)


@app.command()
def explain(
    file: File,
    request: Annotated[Path | None, typer.Option(help="A JSON file with the facts; options below change some.")] = None,
    action: Annotated[ActionName | None, typer.Option(help="What is asked for (train).")] = None,
    mechanism: Annotated[Mechanism | None, typer.Option(help="The run's mechanism (dp-sgd), or none.")] = None,
    epsilon: Annotated[float | None, typer.Option(min=0, help="Epsilon of the whole run (1).")] = None,
    delta: Annotated[float | None, typer.Option(help="Its delta.")] = None,
    noise_multiplier: Annotated[float | None, typer.Option(help="Its noise multiplier.")] = None,
    releases: Annotated[int | None, typer.Option(help="Releases of the run.")] = None,
    epsilon_after: Annotated[float | None, typer.Option(min=0, help="The population's epsilon after this run.")] = None,
    epsilon_cap: Annotated[float | None, typer.Option(min=0, help="The population's cap.")] = None,
    unit: Annotated[str | None, typer.Option(help="The unit of the site's data (record).")] = None,
    dataset: Annotated[str | None, typer.Option(help="The name of the data.")] = None,
    federation: Annotated[str | None, typer.Option(help="The federation.")] = None,
    server: Annotated[str | None, typer.Option(help="The server's identity.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name.")] = None,
    rule: Annotated[str | None, typer.Option(help="The aggregation rule.")] = None,
    public: Annotated[bool | None, typer.Option("--public/--not-public", help="Whether the data are public.")] = None,
    unprotected_allowed: Annotated[
        bool | None, typer.Option("--unprotected/--protected", help="What the site's configuration says.")
    ] = None,
    anchored: Annotated[bool | None, typer.Option(help="Whether the ledger has an anchor.")] = None,
    auditor: Annotated[bool | None, typer.Option(help="Whether the charter has an auditor.")] = None,
    commit_before_upload: Annotated[bool | None, typer.Option(help="What the charter says.")] = None,
    server_validates_updates: Annotated[bool | None, typer.Option(help="What the charter says.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what a policy would answer, which of its policies decided, and what would have to differ.

    Nothing is sent and nothing is spent. Exit code 0 whatever the answer is.

    Example: counterseal policy explain site.cedar --action train --mechanism dp-sgd --epsilon 9.5
    """
    from ...trust.policy.nearby import flips
    from ...trust.policy.policy import SitePolicy

    terms = {"delta": delta, "noise_multiplier": noise_multiplier, "releases": releases}
    facts = {
        "action": action,
        "epsilon_run": epsilon,
        "epsilon_after": epsilon_after,
        "epsilon_cap": epsilon_cap,
        "unit": unit,
        "dataset": dataset,
        "federation": federation,
        "server": server,
        "model": model,
        "rule": rule,
        "public": public,
        "unprotected_allowed": unprotected_allowed,
        "anchored": anchored,
        "auditor": auditor,
        "commit_before_upload": commit_before_upload,
        "server_validates_updates": server_validates_updates,
    }
    policy = SitePolicy.load(file)
    asked = _changed(_base(request), mechanism, _given(terms), _given(facts))
    verdict = policy.decide(asked)
    would = () if verdict.allowed else flips(policy, asked)
    if as_json:
        emit(_as_json(policy, asked, verdict, would))
    else:
        _show(policy, asked, verdict, would)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _base(path: Path | None) -> PolicyRequest:
    from ...trust.policy.nearby import typical_terms
    from ...trust.policy.request import PolicyRequest, read_request
    from ...trust.strict_yaml import read_regular_file

    if path is not None:
        return read_request(read_regular_file(path, limit=1 << 16, what="request"))
    return PolicyRequest(
        action="train",
        server="server@fed.example",
        federation="our-federation",
        group_source="roster",
        dataset="data",
        unit="record",
        charter="0" * 64,
        run="run-1",
        version=0,
        private=True,
        terms=typical_terms(),
        epsilon_run=1.0,
        rule="norm-clipped-fedavg",
        trainer="torch",
        model="mlp",
        anchored=True,
        commit_before_upload=True,
        auditor=True,
        server_validates_updates=False,
        unprotected_allowed=False,
    )


def _changed(
    base: PolicyRequest, mechanism: Mechanism | None, terms: dict[str, Any], facts: dict[str, Any]
) -> PolicyRequest:
    """Return ``base`` with the facts that options gave; a mechanism brings its typical terms along."""
    from dataclasses import replace

    from ...trust.policy.nearby import typical_terms
    from ...trust.terms import PrivacyTerms

    if mechanism == "none":
        if terms or "epsilon_run" in facts:
            raise typer.BadParameter("a run without privacy terms has no numbers of them", param_hint="--mechanism")
        return replace(base, **{**facts, "private": False, "terms": None, "epsilon_run": None})
    wanted = mechanism or (base.terms.mechanism if base.terms else "dp-sgd")
    with typed_values():
        if base.terms is not None and wanted == base.terms.mechanism:
            found = PrivacyTerms(**{**base.terms.model_dump(), **terms})
        elif base.terms is None and mechanism is None and not terms and "epsilon_run" not in facts:
            return replace(base, **facts)
        else:
            found = typical_terms(wanted, **terms)
    epsilon = {} if base.epsilon_run is not None else {"epsilon_run": 1.0}
    return replace(base, **{**epsilon, **facts, "private": True, "terms": found})


def _as_json(policy: SitePolicy, asked: PolicyRequest, verdict: Verdict, would: tuple[str, ...]) -> dict[str, Any]:
    from dataclasses import asdict

    terms = None if asked.terms is None else asked.terms.model_dump(mode="json")
    return {
        "digest": policy.digest,
        "request": jsonable({**asdict(asked), "terms": terms}),
        "allowed": verdict.allowed,
        "policies": [_row(policy.policy(name), name) for name in verdict.reasons],
        "errors": list(verdict.errors),
        "permits": [_row(one, one.id) for one in _permits(policy, asked)],
        "would_be_allowed_if": list(would),
    }


def _row(found: Policy | None, name: str) -> dict[str, Any]:
    if found is None:
        text = "The population's cap in the ledger would be exceeded; no policy can change that."
        return {"id": name, "effect": "forbid", "line": None, "advice": text}
    return {"id": found.id, "effect": found.effect, "line": found.line, "advice": found.advice}


def _permits(policy: SitePolicy, asked: PolicyRequest) -> list[Policy]:
    from ...trust.policy.lints import actions_of

    return [one for one in policy.policies if one.effect == "permit" and asked.action in actions_of(one)]


def _show(policy: SitePolicy, asked: PolicyRequest, verdict: Verdict, would: tuple[str, ...]) -> None:
    typer.echo(f"{'ALLOWED' if verdict.allowed else 'DENIED'}: {asked.action}, {plain(_told(asked))}")
    for error in verdict.errors:
        typer.echo(f"  an error, which denies: {plain(error)}")
    for name in verdict.reasons:
        _show_row("by", _row(policy.policy(name), name))
    if not verdict.allowed and not verdict.reasons and not verdict.errors:
        typer.echo("  because no permit applies")
        for one in _permits(policy, asked):
            _show_row("not permitted by", _row(one, one.id))
    if would:
        typer.echo("It would be allowed if")
        for text in would:
            typer.echo(f"  - {plain(text)}")
    elif not verdict.allowed:
        typer.echo("No change of one or two facts that was tried would be allowed.")


def _show_row(word: str, row: dict[str, Any]) -> None:
    place = "" if row["line"] is None else f", line {row['line']}"
    typer.echo(f"  {word} {row['id']} ({row['effect']}{place})")
    if row["advice"]:
        typer.echo(f"     {plain(row['advice'])}")


def _told(asked: PolicyRequest) -> str:
    if asked.terms is None:
        privacy = "a private run" if asked.private else "without privacy terms"
    else:
        privacy = f"{asked.terms.mechanism}, epsilon {asked.epsilon_run}, delta {asked.terms.delta:g}, unit {asked.terms.unit}"
    return f"{privacy}; {'public' if asked.public else 'non-public'} data {asked.dataset}, unit {asked.unit}"
