"""A whole federation in one process: what a run promises when nothing goes wrong, and when one party does."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterseal.audit.events import AggregateCommit, Event, RunEnd, RunStart, TicketExpire, UpdateReject, peek_event
from counterseal.parameters import Schema, decode
from counterseal.runtime.config import EvaluationConfig
from counterseal.runtime.delivery import ANSWER_BYTES
from counterseal.runtime.errors import RunError
from counterseal.runtime.progress import Progress, RoundDone, SiteDone
from counterseal.runtime.transports.seam import Arrival
from counterseal.trust.canonical import canonical, parse

from ..federation import SERVER, DirectTransport, Federation, run_config


@contextlib.contextmanager
def sites_of(federation: Federation, **changes: Any) -> Iterator[DirectTransport]:
    with contextlib.ExitStack() as stack:
        sites = {name: stack.enter_context(federation.site(name, **changes)) for name in federation.sites}
        yield DirectTransport(sites, clock=federation.clock)


def events(federation: Federation, log: Any) -> list[Event]:
    return [peek_event(log.entry(index)) for index in range(log.size)]


def play(
    federation: Federation, transport: DirectTransport, config: Any = None, **changes: Any
) -> tuple[Any, list[Event], list[Progress]]:
    config = config or run_config()
    seen: list[Progress] = []
    with federation.server(transport, observe=seen.append, **changes) as server:
        result = server.run(config, federation.first_parameters(config))
        return result, events(federation, server.log), seen


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "commit before upload": {"commit_before_upload": True},
    "with an auditor": {"auditor": True},
    "P-384": {"suite": "P384"},
    "ML-KEM-1024 with P-384": {"suite": "MLKEM1024_P384"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_completes_and_everybody_has_the_model(tmp_path: Path, variant: str) -> None:
    federation = Federation.make(tmp_path / "fed", 3, **VARIANTS[variant])
    with sites_of(federation) as transport:
        result, log, _ = play(federation, transport)
    assert (result.outcome, result.versions, result.witnessed) == ("completed", 2, True)
    assert result.cosigners == federation.sites
    start = next(event for event in log if isinstance(event, RunStart))
    commits = [event for event in log if isinstance(event, AggregateCommit)]
    assert [commit.parent for commit in commits] == [start.model, commits[0].output]
    assert commits[-1].output == result.model
    for name in federation.sites:
        kept = (tmp_path / "fed" / name / "models" / "run-1.safetensors").read_bytes()
        config = run_config()
        schema = Schema.of(federation.first_parameters(config))
        assert decode(schema, kept)["linear.weight"].shape == (3, 6)


def test_all_variants_make_the_same_model(tmp_path: Path) -> None:
    models = set()
    for number, variant in enumerate(VARIANTS.values()):
        federation = Federation.make(tmp_path / str(number), 3, **variant)
        with sites_of(federation) as transport:
            models.add(play(federation, transport)[0].model)
    assert len(models) == 1


def test_the_aggregate_is_the_plain_formula(tmp_path: Path) -> None:
    """An independent oracle: train by hand, average in float32 by the charter's weights, compare to the bit."""
    from ..federation import trainer_of

    federation = Federation.make(tmp_path / "fed", 3)
    config = run_config(rounds=1)
    with sites_of(federation) as transport:
        play(federation, transport, config)
    first = federation.first_parameters(config)
    names = sorted(federation.sites)
    trained = [trainer_of(config, name).train(first, seed=config.seed, round_number=0).parameters for name in names]
    deltas = [{key: (after[key] - first[key]).astype(np.float32) for key in first} for after in trained]
    norms = [np.sqrt(sum(float((delta[key].astype(np.float64) ** 2).sum()) for key in delta)) for delta in deltas]
    weights = [federation.charter.charter.weights[name] for name in names]
    coefficients = [
        np.float32(weight / sum(weights) * min(1.0, config.aggregation.clip_norm / norm))
        for weight, norm in zip(weights, norms, strict=True)
    ]
    kept = (tmp_path / "fed" / names[0] / "models" / "run-1.safetensors").read_bytes()
    made = decode(Schema.of(first), kept)
    for key in first:
        total = deltas[0][key] * coefficients[0]
        for delta, coefficient in zip(deltas[1:], coefficients[1:], strict=True):
            total = total + delta[key] * coefficient
        assert np.array_equal(made[key], first[key] + total)


def test_arrival_order_does_not_matter(tmp_path: Path) -> None:
    class Reversed(DirectTransport):
        def poll(self, timeout: float) -> list[Any]:
            return list(reversed(super().poll(timeout)))

    models = set()
    for number, kind in enumerate((DirectTransport, Reversed)):
        federation = Federation.make(tmp_path / str(number), 3)
        with sites_of(federation) as transport:
            models.add(play(federation, kind(transport.sites, clock=federation.clock))[0].model)
    assert len(models) == 1


def test_a_second_run_of_the_same_name_is_refused_or_resumed(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    with sites_of(federation) as transport:
        first, log, _ = play(federation, transport)
        again, relog, _ = play(federation, transport)
        assert again.model == first.model
        assert len(relog) == len(log)
        with pytest.raises(RunError, match="another configuration"):
            play(federation, transport, run_config(rounds=3))


def test_two_runs_share_one_federation(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    with sites_of(federation) as transport:
        play(federation, transport, run_config("run-1", rounds=1))
        second, log, _ = play(federation, transport, run_config("run-2", rounds=1))
    assert second.outcome == "completed"
    assert [event.run for event in log if isinstance(event, RunEnd)] == ["run-1", "run-2"]


# One party does not play along. The others finish.


def test_a_silent_site_never_stops_the_others(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 4)
    silent = federation.sites[1]
    with sites_of(federation) as transport:
        transport.meddle = lambda site, delivery: None if site == silent else delivery
        result, log, _ = play(federation, transport, run_config(rounds=2, minimum_sites=3))
    assert result.outcome == "completed"
    excluded = [event.excluded for event in log if isinstance(event, AggregateCommit)]
    assert [[one.site for one in each] for each in excluded] == [[silent]] * 2
    assert silent not in result.cosigners


GARBAGE = {
    "nothing": b"",
    "not json": b"\x80\x04\x95canary",
    "a list": b"[]",
    "another document": canonical({"ticket": None, "receipt": "x" * 10}),
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("what", GARBAGE)
def test_a_lying_site_is_left_out_and_catches_up_later(tmp_path: Path, what: str) -> None:
    federation = Federation.make(tmp_path / "fed", 4)
    liar = federation.sites[2]
    rounds: Counter[str] = Counter()

    def answers(site: str, answer: bytes) -> bytes:
        rounds[site] += 1
        return GARBAGE[what] if site == liar and rounds[site] == 2 else answer

    with sites_of(federation) as transport:
        transport.answers = answers
        result, log, _ = play(federation, transport, run_config(rounds=2, minimum_sites=3))
    commits = [event for event in log if isinstance(event, AggregateCommit)]
    assert result.outcome == "completed"
    assert liar not in [one.site for one in commits[0].inputs]
    assert liar in [one.site for one in commits[1].inputs]


def test_a_repeated_delivery_gives_the_stored_answer(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    with sites_of(federation) as transport:
        play(federation, transport, run_config(rounds=1))
        for site, _, delivery in list(transport.seen):
            first = parse(transport.sites[site].handle(delivery))
            second = parse(transport.sites[site].handle(delivery))
            assert first["receipt"] is not None
            assert first["receipt"] == second["receipt"]
            assert first["manifest"] == second["manifest"]


def test_every_delivery_twice_changes_nothing(tmp_path: Path) -> None:
    class Twice(DirectTransport):
        def dispatch(self, site: str, ticket: str, delivery: bytes) -> None:
            super().dispatch(site, ticket, delivery)
            super().dispatch(site, ticket, delivery)

    plain, twice = Federation.make(tmp_path / "a", 3), Federation.make(tmp_path / "b", 3)
    with sites_of(plain) as transport:
        expected = play(plain, transport)[0]
    with sites_of(twice) as transport:
        result, log, _ = play(twice, Twice(transport.sites, clock=twice.clock))
    assert result.model == expected.model
    assert result.leaves == expected.leaves


def test_an_unreachable_quorum_aborts_and_says_so(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 4)
    with sites_of(federation) as transport:
        transport.meddle = lambda site, delivery: delivery if site == federation.sites[0] else None
        result, log, _ = play(federation, transport, run_config())
    assert (result.outcome, result.reason, result.witnessed) == ("aborted", "no_quorum_at_start", False)
    assert isinstance(log[-1], RunEnd)
    assert log[-1].witnessed is False


# Membership is asked at ticket, admission and commit.


def test_a_removed_member_gets_no_ticket(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 4)
    federation.remove(federation.sites[0])
    with sites_of(federation) as transport:
        result, log, _ = play(federation, transport, run_config(rounds=1))
    commit = next(event for event in log if isinstance(event, AggregateCommit))
    assert result.outcome == "completed"
    assert [one.site for one in commit.excluded] == [federation.sites[0]]
    denied = [event for event in log if event.type == "access.denied"]
    assert [event.at for event in denied] == ["ticket"]  # type: ignore[attr-defined]


def test_a_member_removed_while_it_trains_is_not_admitted(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 4)
    gone = federation.sites[0]
    count: Counter[str] = Counter()

    def answers(site: str, answer: bytes) -> bytes:
        count[site] += 1
        if site == gone and count[site] == 2:  # the first was the witness ticket
            federation.remove(gone)
        return answer

    with sites_of(federation) as transport:
        transport.answers = answers
        result, log, seen = play(federation, transport, run_config(rounds=2))
    rejected = [event for event in log if isinstance(event, UpdateReject)]
    assert [(event.site, event.reasons) for event in rejected] == [(gone, ("not_authorized",))]
    commits = [event for event in log if isinstance(event, AggregateCommit)]
    assert all(gone not in [one.site for one in commit.inputs] for commit in commits)
    assert result.outcome == "completed"


def test_a_member_removed_after_admission_is_out_at_the_commit(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 4)
    gone = federation.sites[0]

    class Remover(DirectTransport):
        polls = 0

        def poll(self, timeout: float) -> list[Any]:
            found = super().poll(timeout)
            held = [one for one in found if one.site != gone]
            return [*(one for one in found if one.site == gone), *held]

    class Authorizer:
        """Says yes to the site until its admission was asked, then no."""

        def __init__(self, inner: Any) -> None:
            self.inner, self.asked = inner, 0

        def check(self, identities: frozenset[str], role: Any) -> Any:
            found = self.inner.check(identities, role)
            if identities == {gone} and role == "site":
                self.asked += 1
                if self.asked == 3:  # witness, ticket, admission; from now on the roster says no
                    federation.remove(gone)
            return found

    from counterseal.trust.group import RosterAuthorizer

    with sites_of(federation) as transport:
        inner = RosterAuthorizer(federation.roster_path, federation.clock)
        result, log, _ = play(
            federation,
            Remover(transport.sites, clock=federation.clock),
            run_config(rounds=1),
            authorizer=Authorizer(inner),
        )
    excluded = [event for event in log if event.type == "update.exclude"]
    assert [event.site for event in excluded] == [gone]  # type: ignore[attr-defined]
    commit = next(event for event in log if isinstance(event, AggregateCommit))
    assert gone not in [one.site for one in commit.inputs]
    assert result.outcome == "completed"


def test_an_outage_holds_the_round_and_then_aborts_it(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)

    class Outage:
        def __init__(self, inner: Any) -> None:
            self.inner, self.asked = inner, 0

        def check(self, identities: frozenset[str], role: Any) -> Any:
            self.asked += 1
            if self.asked > 5 and federation.roster_path.exists():
                federation.roster_path.unlink()
            return self.inner.check(identities, role)

    from counterseal.trust.group import RosterAuthorizer

    with sites_of(federation) as transport:
        inner = RosterAuthorizer(federation.roster_path, federation.clock)
        config = run_config(rounds=1, round_seconds=2, retries=0)
        result, log, _ = play(federation, transport, config, authorizer=Outage(inner))
    assert result.outcome == "aborted"
    assert not [event for event in log if isinstance(event, AggregateCommit)]


def test_a_site_refuses_a_server_that_its_own_roster_does_not_name(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    from counterseal.trust.group import RosterAuthorizer

    own = federation.folder / "own-roster.yaml"
    own.write_text(
        federation.roster_path.read_text().replace(f"{SERVER}\n    status: active", f"{SERVER}\n    status: removed")
    )
    own.chmod(0o600)
    with sites_of(federation) as transport:
        wary = federation.sites[0]
        transport.sites[wary]._authorizer = RosterAuthorizer(own, federation.clock)
        result, log, seen = play(federation, transport, run_config(rounds=1))
    done = [one for one in seen if isinstance(one, SiteDone) and one.site == wary]
    assert done[0].reasons == ("not_authorized",)
    assert result.outcome == "completed"


def test_an_update_over_the_declared_bound_is_rejected_with_its_reason(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3, norm_bound=1e-6)
    with sites_of(federation) as transport:
        config = run_config(rounds=1, retries=0)
        result, log, _ = play(federation, transport, config)
    rejected = {event.site: event.reasons for event in log if isinstance(event, UpdateReject)}
    assert set(rejected.values()) == {("norm_bound",)}
    assert result.outcome == "aborted"


def test_the_server_evaluates_and_rounds_report(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    from ..federation import trainer_of

    config = run_config(rounds=2, evaluation=EvaluationConfig(sites=True, server=True))
    seen: list[Progress] = []
    with sites_of(federation) as transport, federation.server(transport, observe=seen.append) as server:
        server.run(config, federation.first_parameters(config), evaluator=trainer_of(config, SERVER))
    done = [one for one in seen if isinstance(one, RoundDone)]
    assert [sorted(one.evaluation) for one in done] == [["accuracy", "loss"]] * 2


def test_nothing_plaintext_on_the_servers_disk(tmp_path: Path) -> None:
    """P3: no file of the server, the store or the spool holds 16 consecutive bytes of any update or version."""
    federation = Federation.make(tmp_path / "fed", 3)
    with sites_of(federation) as transport:
        play(federation, transport)
    secrets = set()
    for name in federation.sites:
        data = (tmp_path / "fed" / name / "models" / "run-1.safetensors").read_bytes()[-84:]
        secrets |= {data[start : start + 16] for start in range(0, len(data) - 16, 4)}
    searched = 0
    for folder in ("server", "store"):
        for path in (tmp_path / "fed" / folder).rglob("*"):
            if path.is_file():
                searched += 1
                found = path.read_bytes()
                assert not any(secret in found for secret in secrets), path
    assert searched > 20


def test_a_late_receipt_is_logged_and_its_update_named_late(tmp_path: Path) -> None:
    """A site whose round closed without it answers afterwards: its chain of receipts in the log has no gap."""
    federation = Federation.make(tmp_path / "fed", 4)
    slow = federation.sites[1]

    held: list[Any] = []

    class Slow(DirectTransport):
        def poll(self, timeout: float) -> list[Any]:
            found = super().poll(timeout)
            if len(self.seen) == 8:  # 4 witness, 4 train deliveries
                held.extend(one for one in found if one.site == slow)
                return [one for one in found if one.site != slow]
            if len(self.seen) > 8:
                found = [*held, *found]
                held.clear()
            return found

    with sites_of(federation) as transport:
        config = run_config(rounds=2, minimum_sites=3)
        late_transport = Slow(transport.sites, meddle=without_leave_to_store, clock=federation.clock)
        result, log, _ = play(federation, late_transport, config)
    assert result.outcome == "completed"
    late = [event for event in log if event.type == "update.late"]
    assert [event.site for event in late] == [slow]  # type: ignore[attr-defined]
    commits = [event for event in log if isinstance(event, AggregateCommit)]
    assert slow not in [one.site for one in commits[0].inputs]
    receipts = [event for event in log if event.type == "receipt.file" and event.actor == slow]
    assert len(receipts) == len({event.ticket for event in receipts})  # type: ignore[attr-defined]


def without_leave_to_store(site: str, delivery: bytes) -> bytes:
    """The delivery without the grant for the answer object, so that an answer is nowhere but on its way."""
    found = parse(delivery, limit=len(delivery))
    return canonical({**found, "grants": {**found["grants"], "answer": None}})


@pytest.mark.parametrize("variant", ["plain", "commit before upload"])
def test_an_answer_that_got_lost_is_found_in_the_store(tmp_path: Path, variant: str) -> None:
    federation = Federation.make(tmp_path / "fed", 4, **VARIANTS[variant])
    silent = federation.sites[2]
    lost: Counter[str] = Counter()

    def lose(site: str, answer: bytes) -> bytes | None:
        # Every answer of one site gets lost that lies in the store.
        if site != silent or parse(answer, limit=len(answer))["manifest"] is None or not parse(answer)["uploaded"]:
            return answer
        lost[site] += 1
        return None

    with sites_of(federation) as transport:
        transport.answers = lose
        result, log, _ = play(federation, transport, run_config(rounds=2))
    assert (result.outcome, lost[silent]) == ("completed", 2)
    commits = [event for event in log if isinstance(event, AggregateCommit)]
    assert [silent in [one.site for one in commit.inputs] for commit in commits] == [True, True]
    assert not [event for event in log if event.type in {"ticket.expire", "update.late"}]


def test_a_server_says_what_is_still_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    federation = Federation.make(tmp_path / "fed", 4)

    class Remembering(DirectTransport):
        def recover(self, tickets: dict[str, str]) -> set[str]:
            return {digest for digest, site in tickets.items() if site == federation.sites[1]}

    with sites_of(federation) as transport, caplog.at_level("INFO", logger="counterseal"):
        play(federation, Remembering(transport.sites, clock=federation.clock), run_config(rounds=1))
    assert f"may still come from {federation.sites[1]}" in caplog.text


def test_an_errands_answers_are_found_in_the_store(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 4)

    def lose(site: str, answer: bytes) -> bytes | None:
        found = parse(answer, limit=len(answer))
        return None if found["receipt"] is not None and found["manifest"] is None else answer  # witness and receive

    with sites_of(federation) as transport:
        transport.answers = lose
        result, log, _ = play(federation, transport, run_config(rounds=1))
    assert (result.outcome, result.witnessed) == ("completed", True)
    assert not [event for event in log if event.type == "ticket.expire"]


def test_rubbish_in_the_store_does_not_cost_a_site_its_place(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 4)
    slow = federation.sites[0]
    held: list[Any] = []

    class Slow(DirectTransport):
        """Holds one site's answer until the server has looked into the store, where something else lies."""

        looked = 0

        def poll(self, timeout: float) -> list[Any]:
            found = super().poll(timeout)
            mine = [
                one for one in found if one.site == slow and parse(one.answer or b"{}", limit=1 << 20).get("manifest")
            ]
            held.extend(mine)
            found = [one for one in found if one not in mine]
            if held and not found:
                self.looked += 1
                for object_ in federation.folder.glob(f"store/**/*{held[0].ticket}*/answer*"):
                    spoil(object_)
                if self.looked > 15:
                    found, held[:] = list(held), []
            return found

    def spoil(path: Path) -> None:
        if path.is_file() and path.stat().st_size == ANSWER_BYTES and b"receipt" in path.read_bytes():
            path.chmod(0o600)
            path.write_bytes(b'{"ticket":null}'.ljust(ANSWER_BYTES))
            spoiled.append(path)

    spoiled: list[Path] = []
    with sites_of(federation) as transport:
        result, log, _ = play(federation, Slow(transport.sites, clock=federation.clock), run_config(rounds=1))
    commit = next(event for event in log if isinstance(event, AggregateCommit))
    assert (result.outcome, slow in [one.site for one in commit.inputs]) == ("completed", True)
    assert spoiled


@pytest.mark.parametrize("failure", ["endpoint_refused", "endpoint_unknown"])
def test_a_hopeless_failure_is_not_tried_again_in_the_round(tmp_path: Path, failure: str) -> None:
    federation = Federation.make(tmp_path / "fed", 4)
    away, dispatched = federation.sites[1], Counter[str]()

    class Refusing(DirectTransport):
        def dispatch(self, site: str, ticket: str, delivery: bytes) -> None:
            if site == away and parse(delivery, limit=len(delivery))["grants"]["update"] is not None:
                dispatched[site] += 1
                self.waiting.append(Arrival(site, ticket, None, failure))
            else:
                super().dispatch(site, ticket, delivery)

    with sites_of(federation) as transport:
        config = run_config(rounds=1, minimum_sites=3, retries=2)
        result, log, _ = play(federation, Refusing(transport.sites, clock=federation.clock), config)
    assert (result.outcome, dispatched[away]) == ("completed", 1)
    assert [e.reason for e in log if isinstance(e, TicketExpire) and e.site == away] == [failure]


def test_a_runs_key_is_erased_after_the_dispute_window(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    with sites_of(federation) as transport:
        play(federation, transport, run_config("run-1", rounds=1))
        federation.clock.advance(federation.charter.charter.dispute_window_seconds - 60)
        play(federation, transport, run_config("run-2", rounds=1))
        again, _, _ = play(federation, transport, run_config("run-1", rounds=1))
        assert again.outcome == "completed", "inside the window the run can still be read"
        federation.clock.advance(120)
        play(federation, transport, run_config("run-3", rounds=1))
        with pytest.raises(RunError, match="erased"):
            play(federation, transport, run_config("run-1", rounds=1))
        second, _, _ = play(federation, transport, run_config("run-2", rounds=1))
        assert second.outcome == "completed", "a younger run keeps its key"


def test_an_aborted_try_does_not_convict_the_commit_after_it(tmp_path: Path) -> None:
    """Admitted, aborted, then committed without this site: its settlement is the abort's, whatever else is shown."""
    federation = Federation.make(tmp_path / "fed", 4)
    first, absent = federation.sites[0], federation.sites[1:3]

    def meddle(site: str, delivery: bytes) -> bytes | None:
        value = parse(delivery, limit=10_000_000)
        opened = [leaf for leaf in value["leaves"] if '"round.open"' in payload_of(leaf["leaf"])]
        tried = parse(payload_of(opened[-1]["leaf"]).encode()) if opened else {"version": None, "attempt": None}
        place = (tried["version"], tried["attempt"])
        return None if (place == (0, 0) and site in absent) or (place == (0, 1) and site == first) else delivery

    with sites_of(federation) as transport:
        transport.meddle = meddle
        config = run_config(rounds=2, minimum_sites=3, retries=1)
        result, log, seen = play(federation, transport, config)
    assert result.outcome == "completed"
    commits = [event for event in log if isinstance(event, AggregateCommit)]
    assert commits[0].attempt == 1 and first not in [one.site for one in commits[0].inputs]
    assert first in [one.site for one in commits[1].inputs], "it goes on, and is not halted"


def payload_of(leaf: str) -> str:
    import base64

    return base64.b64decode(parse(leaf.encode())["payload"]).decode()


def test_a_spoiled_grant_is_given_again(tmp_path: Path) -> None:
    """A grant that ran out on the way decides nothing: the delivery is repeated with a fresh one."""
    federation = Federation.make(tmp_path / "fed", 3)
    site = federation.sites[0]
    spoiled: list[bool] = []

    def meddle(name: str, delivery: bytes) -> bytes:
        value = parse(delivery, limit=10_000_000)
        if name == site and value["grants"]["payload"] is not None and not spoiled:
            spoiled.append(True)
            value["grants"]["payload"]["expires"] = 1
        return canonical(value)

    with sites_of(federation) as transport:
        transport.meddle = meddle
        result, log, _ = play(federation, transport, run_config(rounds=1, minimum_sites=3))
    commit = next(event for event in log if isinstance(event, AggregateCommit))
    assert spoiled and [one.site for one in commit.inputs] == sorted(federation.sites)
    assert result.outcome == "completed"
