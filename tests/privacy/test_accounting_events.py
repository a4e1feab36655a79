"""Events: whom they protect must be said, and may not be mixed."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from counterseal.privacy.accounting.calibrate import calibrate, calibrate_laplace
from counterseal.privacy.accounting.events import (
    ADJACENCIES,
    Event,
    GaussianEvent,
    LaplaceEvent,
    effective_multiplier,
    event_of_terms,
    require_population,
)
from counterseal.privacy.accounting.statement import stated_epsilon
from counterseal.privacy.errors import AccountingError, AdjacencyError
from counterseal.trust.terms import PrivacyTerms

MISSING = [{}, {"adjacency": "add-remove"}, {"unit": "record"}, {"adjacency": "neighbour", "unit": "record"}]


@pytest.mark.parametrize("said", MISSING)
@pytest.mark.parametrize("kind", [GaussianEvent, LaplaceEvent])
def test_an_event_without_unit_or_adjacency_is_refused(kind: Any, said: dict[str, str]) -> None:
    with pytest.raises(AdjacencyError, match="adjacency"):
        kind(1.0, 1, **said)


@pytest.mark.parametrize("said", [{"adjacency": "", "unit": "record"}, {"adjacency": "add-remove", "unit": ""}])
def test_a_statement_without_unit_or_adjacency_is_refused(said: dict[str, str]) -> None:
    with pytest.raises(AdjacencyError):
        stated_epsilon([], delta=1e-5, **said)


def test_a_calibration_without_adjacency_is_refused() -> None:
    with pytest.raises(AdjacencyError):
        calibrate(1.0, 1e-5, steps=1, adjacency="")
    with pytest.raises(AdjacencyError):
        calibrate_laplace(1.0, steps=1, adjacency="")


@pytest.mark.parametrize("population", [("add-remove", "record"), ("replace-one", "record"), ("any", "site")])
@pytest.mark.parametrize("event", [("add-remove", "record"), ("replace-one", "record"), ("add-remove", "patient")])
def test_events_about_other_neighbours_are_refused(event: tuple[str, str], population: tuple[str, str]) -> None:
    adjacency, unit = event
    events: list[Event] = [
        GaussianEvent(1.0, 1, adjacency=population[0], unit=population[1]),
        GaussianEvent(1.0, 1, adjacency=adjacency, unit=unit),
    ]
    if event == population:
        require_population(events, adjacency=population[0], unit=population[1])
        return
    with pytest.raises(AdjacencyError):
        stated_epsilon(events, delta=1e-5, adjacency=population[0], unit=population[1])


@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_what_holds_between_all_datasets_holds_in_every_population(adjacency: str) -> None:
    event = GaussianEvent(2.0, 3, adjacency="any", unit="site")
    stated = {
        stated_epsilon([event], delta=1e-5, adjacency=adjacency, unit=unit).epsilon for unit in ("site", "record")
    }
    assert stated == {stated_epsilon([event], delta=1e-5, adjacency="any", unit="site").epsilon}


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (GaussianEvent, {"noise_multiplier": 0.0}),
        (GaussianEvent, {"noise_multiplier": -1.0}),
        (GaussianEvent, {"noise_multiplier": math.nan}),
        (GaussianEvent, {"noise_multiplier": math.inf}),
        (LaplaceEvent, {"noise_multiplier": 0.0}),
        (GaussianEvent, {"steps": 0}),
        (GaussianEvent, {"steps": 1.5}),
        (GaussianEvent, {"sampling_rate": 0.0}),
        (GaussianEvent, {"sampling_rate": 1.1}),
        (GaussianEvent, {"sampling_rate": math.nan}),
        (LaplaceEvent, {"tv": -1e-9}),
        (LaplaceEvent, {"tv": math.nan}),
    ],
)
def test_numbers_that_make_no_mechanism_are_refused(kind: Any, numbers: dict[str, Any]) -> None:
    sound: dict[str, Any] = {"noise_multiplier": 1.0, "steps": 1, "adjacency": "add-remove", "unit": "record"}
    with pytest.raises(AccountingError):
        kind(**(sound | numbers))


def test_a_sample_of_units_does_not_protect_all_of_them() -> None:
    with pytest.raises(AdjacencyError, match="sample"):
        GaussianEvent(1.0, 1, sampling_rate=0.1, adjacency="any", unit="site")


def terms(**numbers: Any) -> PrivacyTerms:
    sound: dict[str, Any] = {
        "mechanism": "dp-sgd",
        "clip_norm": 0.5,
        "noise_multiplier": 1.0,
        "delta": 1e-5,
        "releases": 10,
        "steps": 100,
        "sampling_rate": 0.01,
    }
    return PrivacyTerms(**(sound | numbers))


def test_terms_become_the_event_of_the_whole_reservation() -> None:
    event = event_of_terms(terms(), bound_units=1600, dimensions=10_000, tv_per_draw=2.0**-100)
    assert isinstance(event, GaussianEvent)
    assert (event.steps, event.sampling_rate, event.adjacency, event.unit) == (1000, 0.01, "add-remove", "record")
    assert event.noise_multiplier == pytest.approx(1.0, rel=1e-5) and event.noise_multiplier < 1
    assert event.tv == pytest.approx(1000 * 10_000 * 2.0**-100)


def test_the_event_of_one_release_times_the_releases_is_the_whole() -> None:
    one = event_of_terms(terms(), bound_units=1600, dimensions=10_000, tv_per_draw=2.0**-100, releases=1)
    whole = event_of_terms(terms(), bound_units=1600, dimensions=10_000, tv_per_draw=2.0**-100)
    assert one.steps == 100
    assert replace(one.times(10), tv=0.0) == replace(whole, tv=0.0)
    assert one.times(10).tv == pytest.approx(whole.tv)


@pytest.mark.parametrize(("mechanism", "kind"), [("output-gaussian", GaussianEvent), ("output-laplace", LaplaceEvent)])
def test_output_mechanisms_protect_whatever_the_data_are(mechanism: str, kind: type) -> None:
    one = terms(
        mechanism=mechanism,
        unit="site",
        adjacency="any",
        delta=0.0 if mechanism == "output-laplace" else 1e-5,
        steps=1,
        sampling_rate=1.0,
    )
    event = event_of_terms(one, bound_units=3200, dimensions=10)
    assert isinstance(event, kind) and (event.adjacency, event.shift, event.steps) == ("any", 1.0, 10)


def test_a_mechanism_without_an_argument_is_refused() -> None:
    odd = SimpleNamespace(
        mechanism="ghost", unit="u", adjacency="any", noise_multiplier=1.0, releases=1, steps=1, sampling_rate=1.0
    )
    with pytest.raises(AccountingError, match="ghost"):
        event_of_terms(odd, bound_units=100, dimensions=1)


@pytest.mark.parametrize("bound_units", [16, 100, 16_000])
@pytest.mark.parametrize("multiplier", [0.3, 1.0, 1.0000000001, 77.7])
def test_discrete_noise_is_accounted_as_less_than_it_is(multiplier: float, bound_units: int) -> None:
    effective = effective_multiplier(multiplier, bound_units)
    assert effective < multiplier
    assert (effective * bound_units) ** 2 <= (multiplier * bound_units) ** 2 - 9


def test_noise_narrower_than_the_grid_is_refused() -> None:
    with pytest.raises(AccountingError, match="narrow"):
        effective_multiplier(0.1, 30)
