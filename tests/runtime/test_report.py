"""The report: it says what was found and no more, to whom it may be said, and nothing in it acts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from counterseal.audit.checks.findings import Finding, Status
from counterseal.runtime.config import ConfigError
from counterseal.runtime.demo.baselines import Curve
from counterseal.runtime.demo.coverage import claims
from counterseal.runtime.demo.figures import curves_svg
from counterseal.runtime.demo.play import DemoResult
from counterseal.runtime.demo.report import render, report_data

from .demo_world import played

HOSTILE = [
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</svg><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "<!-- --><iframe src=//evil.example>",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{1}{0}$",
]


class Page(HTMLParser):
    """Everything in a page that could act or load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return played(tmp_path_factory.mktemp("report") / "out")


def html_of(result: DemoResult, for_site: str | None = None) -> str:
    return render(report_data(result, for_site=for_site))


def text_of(html: str) -> str:
    return " ".join(" ".join(Page(html).text).split())


def changed(result: DemoResult, site: str, **values: Any) -> DemoResult:
    """Return ``result`` with ``values`` in every row of ``site``."""
    rounds = tuple(
        {**one, "sites": [{**row, **values} if row["site"] == site else row for row in one["sites"]]}
        for one in result.rounds
    )
    return replace(result, rounds=rounds)


@pytest.mark.parametrize("for_site", [None, "site-a"])
def test_nothing_in_the_page_acts_or_loads(result: DemoResult, for_site: str | None) -> None:
    html = html_of(result, for_site)
    page = Page(html)
    assert not {"script", "iframe", "object", "embed", "link", "base", "form", "img", "image", "a"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "srcset", "action", "formaction", "data")
        if "href" in name:  # inside the figure: references to its own parts
            assert value.startswith("#")
        if "://" in value:
            assert name.startswith("xmlns")
    assert "@import" not in html
    assert all(reference.startswith("#") for reference in re.findall(r"url\(([^)]*)\)", html))
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in page.attributes


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(result: DemoResult, text: str) -> None:
    bad = changed(result, "site-a", reasons=(text,), flags=(text,), verdict=text)
    rows = (*result.findings.rows, Finding("x", text, Status.FAIL, (text,)))
    first = next(iter(result.curves.values()))
    bad = replace(
        bad,
        source=text,
        run=replace(result.run, reason=text, checkpoint=text, run=text, cosigners=(text,)),
        findings=replace(result.findings, rows=rows, root=text),
        curves={text: first, **result.curves},
    )
    html = html_of(bad)
    page = Page(html)
    assert sorted(set(page.tags)) == sorted(set(Page(html_of(result)).tags) | {"span"})
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert text_of(html).count(" ".join(text.split())) >= 8


def test_a_participant_sees_aggregates_and_its_own_rows(result: DemoResult) -> None:
    told = changed(
        result,
        "site-b",
        reasons=("secret_reason",),
        verdict="rejected",
        norm=123.456,
        metrics={"after": {"loss": 9.87}},
    )
    mine, whole = html_of(told, "site-a"), html_of(told)
    for secret in ("secret_reason", "123.456", "9.870", "site-b alone", "site-c alone"):
        assert secret in whole
        assert secret not in mine
    own = next(row for row in result.rounds[0]["sites"] if row["site"] == "site-a")
    assert f"{own['norm']:.3f}" in mine and "site-a alone" in mine
    assert "2 of 3" in text_of(mine)  # the aggregate: how many were admitted


def test_a_participant_s_timeline_names_no_other_site_s_doing(result: DemoResult) -> None:
    data, whole = report_data(result, for_site="site-a"), report_data(result)
    rows = [row for chapter in data.chapters for row in chapter.rows]
    everything = [row for chapter in whole.chapters for row in chapter.rows]
    assert data.hidden == len(everything) - len(rows) > 0
    public = {"member.add", "round.open", "model.release", "federation.create"}
    for row in rows:
        if row.type not in public:
            assert "site-b" not in row.actor + row.says and "site-c" not in row.actor + row.says
    assert [row for row in rows if row.type == "update.admit"]
    assert [row.index for row in everything] == list(range(result.run.leaves))


def test_a_report_for_a_stranger_is_refused(result: DemoResult) -> None:
    with pytest.raises(ConfigError, match="no site of this run"):
        report_data(result, for_site="server")


def test_an_unwitnessed_log_says_so(result: DemoResult) -> None:
    assert "UNWITNESSED" not in text_of(html_of(result))
    alone = replace(result, run=replace(result.run, witnessed=False, cosigners=()))
    assert text_of(html_of(alone)).count("UNWITNESSED") >= 3


def test_findings_are_printed_as_they_are(result: DemoResult) -> None:
    rows = tuple(
        replace(row, status=Status.FAIL, reasons=("leaf 7: not what was signed",)) if row.id == "2" else row
        for row in result.findings.rows
    )
    failed = replace(result, findings=replace(result.findings, rows=rows))
    text = text_of(html_of(failed))
    assert "Verifier of the log FAIL" in text and "leaf 7: not what was signed" in text
    undecided = tuple(replace(row, status=Status.UNDECIDED) if row.id == "13" else row for row in result.findings.rows)
    partly = replace(result, findings=replace(result.findings, rows=undecided))
    assert "Verifier of the log UNDECIDED" in text_of(html_of(partly))
    assert "Verifier of the log PASS" in text_of(html_of(result))
    by_subject = {one.subject: one.state for one in claims(failed)}
    assert by_subject["The log only grew, and the story in it is whole"] == "NO"
    for row in result.findings.rows:
        assert row.checks in text


@pytest.mark.parametrize("broken", [str(number) for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)])
@pytest.mark.parametrize("status", [Status.FAIL, Status.UNDECIDED])
def test_no_claim_outlives_its_ground(result: DemoResult, broken: str, status: Status) -> None:
    before = [one.state for one in claims(result)]
    rows = tuple(replace(row, status=status) if row.id == broken else row for row in result.findings.rows)
    after = [one.state for one in claims(replace(result, findings=replace(result.findings, rows=rows)))]
    lost = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert lost and all(old == "yes" and new != "yes" for old, new in lost)


def test_what_was_not_done_is_said(result: DemoResult) -> None:
    text = text_of(html_of(result))
    for said in ("no differential privacy", "stands in for a Globus group", "one machine under one user", "no epsilon"):
        assert said in text
    assert "NOT COVERED" in text


def test_metrics_are_claimed_only_where_there_are_some(result: DemoResult) -> None:
    subject = "Metrics are ciphertext for store and transport"
    some, none = (replace(result, sealed=replace(result.sealed, metrics=count)) for count in (6, 0))
    assert [one.state for one in claims(some) if one.subject == subject] == ["yes"]
    assert [one for one in claims(none) if one.subject == subject] == []


def test_an_aborted_run_has_a_report(result: DemoResult) -> None:
    aborted = replace(result, run=replace(result.run, outcome="aborted", reason="no_quorum", versions=0), rounds=())
    text = text_of(html_of(aborted))
    assert "the run was aborted" in text and "no_quorum" in text


def test_the_figure_takes_its_colours_from_the_page() -> None:
    series: Mapping[str, Any] = {
        "federated": [(0, 2.3, 0.1), (1, 1.0, 0.5)],
        "centralised": [(0, 2.3, 0.1), (1, 0.5, 0.9)],
        "site-a": [(0, 2.3, 0.1), (1, 4.0, 0.3)],
    }
    svg = curves_svg(series)
    assert svg.startswith("<svg") and "<metadata>" not in svg
    for variable in ("--federated", "--centralised", "--alone", "--soft", "--line"):
        assert f"var({variable})" in svg
    assert not re.findall(r"(?:stroke|fill): #(?!0{6})", svg)
    assert curves_svg(series) == svg


def test_curves_have_a_point_for_version_0(result: DemoResult) -> None:
    curve = next(iter(result.curves.values()))
    assert isinstance(curve, Curve)
    data = report_data(result)
    assert {points[0][1:] for points in data.curves.values()} == {(curve.loss[0], curve.accuracy[0])}
