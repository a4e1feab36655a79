"""What can be tried on the meaning of an epsilon: false statements, queries beside a release, noise, counts (P5)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from counterseal.audit.events import Event, ReceiptFile, RunStart
from counterseal.runtime.accounts import accounts
from counterseal.runtime.config import LossConfig, ModelConfig, PluginConfig, RunConfig
from counterseal.runtime.config.privacy import CountsConfig, RunPrivacy
from counterseal.runtime.site import releases, work
from counterseal.runtime.site.checks import Verified
from counterseal.runtime.site.steward import Leave, Steward
from counterseal.runtime.site.work import Workshop
from counterseal.runtime.training.plugins import file_digest
from counterseal.runtime.training.seam import Arrays, SiteData
from counterseal.trust.policy.policy import SitePolicy

from ..federation import data_of, run_config
from ..private import TERMS, ledger_of, privacy_of
from .forge import Forger
from .private_play import require_end
from .private_world import PRIVATE, PrivateWorld, heard, private_worlds, receipt_in, sgd_run
from .rows_log import failures
from .rows_server import granted
from .table import Row
from .world import ME, OTHER, answer_of

__all__ = ["PRIVACY"]

TWO = PRIVATE.model_copy(update={"rounds": 2})
SGD = sgd_run(TERMS)
COUNTS = CountsConfig(noise_multiplier=4.0)
PLUGINS = '''
import torch
from torch import nn


class Over(nn.Module):
    """A linear layer, and something that is done to what it gives."""

    def __init__(self, what):
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.what = what

    def forward(self, x):
        return self.what(x, self.linear(x))


def normalised():
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def coupled():
    return Over(lambda x, y: y - y.mean(dim=0))


def temper():
    def scold(x, y):
        if (x > 100).any():
            raise ValueError(f"Zorbas has {x.max()}")
        return y

    return Over(scold)


def mean_loss():
    return lambda scores, labels: nn.functional.cross_entropy(scores, labels).expand(len(labels))
'''


class Lying(Steward):
    """A steward that pays what is due and says something else."""

    tell: Callable[[Leave], Leave]

    def admit(self, verified: Verified, dimensions: Any) -> Leave:
        """Return leave, and the lie."""
        leave = super().admit(verified, dimensions)
        return leave if verified.ticket.document.kind != "train" else self.tell(leave)


def lying(world: PrivateWorld, tell: Callable[[Leave], Leave], **more: Any) -> dict[str, Any]:
    """Return the settings of a site-a that tells lies."""
    privacy, ledger = privacy_of(world.folder, ME), ledger_of(world.folder, ME)
    steward = Lying(world.federation.charter, ME, **{"privacy": privacy, "ledger": ledger, **more})
    steward.tell = tell
    return {"steward": steward}


def states(**changes: Any) -> Callable[[Leave], Leave]:
    """Return a lie about what was spent; a function makes the lie of the truth."""

    def tell(leave: Leave) -> Leave:
        spending = dict(leave.spending or {})
        made = {name: change(spending[name]) if callable(change) else change for name, change in changes.items()}
        return replace(leave, spending={**spending, **made})

    return tell


def stated(tell: Callable[[Leave], Leave], config: RunConfig = TWO, **more: Any) -> Callable[[], str]:
    """Let site-a tell a lie in its receipts, and everybody go on; an auditor reads the log afterwards."""

    def play() -> str:
        with private_worlds("new") as world:
            world.federation.settings[ME] = lying(world, tell, **more)
            told = world.told(config)
            assert (told.outcome, told.counted) == ("completed", tuple(range(config.rounds)))
            wrong = world.verify()
            if wrong:
                return f"obligation {' '.join(wrong)}"
            return "agrees" if all(one.agrees for one in accounts(enumerate(told.log))) else "does not agree"

    return play


def falling() -> Callable[[Leave], Leave]:
    """Return a lie by which the releases go down: two, then one."""
    counts = iter((2, 1))
    return lambda leave: states(releases=next(counts))(leave)


def receding() -> Callable[[Leave], Leave]:
    """Return a lie by which epsilon goes down."""
    epsilons = iter((1.9, 1.8))
    return lambda leave: states(epsilon=next(epsilons))(leave)


def unannounced() -> str:
    """State an epsilon in a run without terms: it would look private."""
    with private_worlds("new") as world:
        for name in world.federation.sites:
            world.federation.settings[name] = {"unprotected": True}
        tell = states(epsilon=0.1, delta=1e-6, releases=1)
        world.federation.settings[ME] = lying(world, tell, unprotected=True)
        assert world.told(run_config(rounds=1, minimum_sites=2)).outcome == "completed"
        return f"obligation {' '.join(world.verify())}"


def forged_receipt() -> str:
    """Let the server write a smaller epsilon into site-a's receipt."""

    def change(event: Event) -> Event:
        if isinstance(event, ReceiptFile) and event.actor == ME and event.spending and event.spending.epsilon:
            return event.model_copy(update={"spending": event.spending.model_copy(update={"epsilon": 0.1})})
        return event

    with private_worlds("ended") as world:
        forged = Forger(world, change, seen=10)
        forged.log.close()
        return f"obligation {failures(world, forged.folder)}"


def refused_by_all(config: RunConfig, approve: bool = True) -> str:
    """Ask for a run that no site takes, then for an honest one; return the code that all gave."""
    with private_worlds("new") as world:
        codes: list[str] = []

        def answers(site: str, raw: bytes) -> bytes:
            receipt = receipt_in(raw)
            if receipt is not None and receipt.outcome != "done":
                codes.append(answer_of(raw))
            return raw

        if approve:
            world.federation.plugins = approved(world)
        world.config = config
        assert world.finish(answers=answers).outcome != "completed"
        assert len(codes) >= 3
        assert len(set(codes)) == 1
        assert [world.drawn(name) for name in world.federation.sites] == [0, 0, 0]
        require_end(world, world.told(PRIVATE.model_copy(update={"name": "run-2", "rounds": 1})), (0,), drawn=1)
        return codes[0]


def approved(world: PrivateWorld) -> tuple[PluginConfig, ...]:
    """Return models and losses that every officer approved after reading them too fast."""
    path = world.folder / "plugins.py"
    path.write_text(PLUGINS)
    names = {"normalised": "model", "coupled": "model", "temper": "model", "mean_loss": "loss"}
    values = {"file": path, "sha256": file_digest(path)}
    return tuple(
        PluginConfig.model_validate({**values, "kind": kind, "name": name.replace("_", "-"), "attribute": name})
        for name, kind in names.items()
    )


def of_model(name: str) -> RunConfig:
    """Return a private run of a plug-in model."""
    return SGD.model_copy(update={"model": ModelConfig(name=name)})


def false_rule() -> str:
    """Have a layer's rule for per-record gradients return a thousandth too little."""
    from opacus.grad_sample import GradSampleHooks
    from torch import nn

    honest = GradSampleHooks.GRAD_SAMPLERS[nn.Linear]

    def wrong(*arguments: Any) -> Any:
        return {parameter: found * 0.999 for parameter, found in honest(*arguments).items()}

    with patch.dict(GradSampleHooks.GRAD_SAMPLERS, {nn.Linear: wrong}):
        with private_worlds("new") as world:
            told = world.told(SGD)
            assert told.outcome != "completed"
            assert world.drawn() == 0
        return told.codes[0]


def bad_record(make: Callable[[Any, Any], None], model: str | None = None) -> Callable[[], str]:
    """Put one record into site-a's data, training and held-out, that would make an ordinary computation fail or show."""

    def play() -> str:
        data = data_of(ME)
        train, test = (Arrays(one.x.copy(), one.y.copy()) for one in (data.train, data.test) if one is not None)
        for part in (train, test):
            make(part.x, part.y)
        config = SGD if model is None else of_model(model)
        with private_worlds("new") as world, heard() as lines:
            world.federation.plugins = approved(world)
            _give(world, SiteData(train, test))
            told = world.told(config)
            require_end(world, told, (0,), drawn=1)
            mine, others = (receipt_of(told.log, name) for name in (ME, OTHER))
            assert shape_of(mine) == shape_of(others)
            assert not [line for line in lines if "Zorbas" in line or "not finite" in line]
            return told.codes[0]

    return play


def _give(world: PrivateWorld, data: SiteData, **more: Any) -> None:
    from counterseal.runtime.training.registry import build_trainer

    def trainers(config: RunConfig) -> Any:
        terms = None if config.privacy is None else config.privacy.of(ME)
        return build_trainer(config, site=ME, data=data, plugins=world.federation.plugins, privacy=terms)

    world.federation.settings[ME] = {"trainers": trainers, **more}


def receipt_of(log: list[Event], site: str) -> ReceiptFile:
    """Return the site's first receipt of an update."""
    return next(one for one in log if isinstance(one, ReceiptFile) and (one.actor, one.kind) == (site, "train"))


def shape_of(receipt: ReceiptFile) -> dict[str, Any]:
    """Return what a receipt says, without digests, names and times."""
    spending = receipt.spending
    assert spending is not None
    said = {"outcome": receipt.outcome, "reason": receipt.reason, "metrics": receipt.metrics, "model": receipt.model}
    return {**said, "spending": spending.model_dump(mode="json", exclude={"ledger"})}


def counted_twice() -> str:
    """Ask for noisy counts of a model that fails on one held-out record: would the counts jump to nothing?"""
    data = data_of(ME)
    assert data.test is not None
    many = Arrays(np.tile(data.test.x, (50, 1)), np.tile(data.test.y, 50))
    many.x[0, 0] = 1e9
    config = of_model("temper").model_copy(update={"privacy": RunPrivacy(terms=TERMS, counts=COUNTS)})
    made: list[Mapping[str, int]] = []
    honest = releases.counted

    def keep(*arguments: Any) -> Any:
        made.append(honest(*arguments))
        return made[-1]

    with private_worlds("new") as world:
        world.federation.plugins = approved(world)
        _give(world, SiteData(data.train, many))
        with patch.object(work, "counted", keep):
            told = world.told(config)
        require_end(world, told, (0,), drawn=1)
        assert abs(made[0]["examples"] - len(many)) < 300  # noise of scale 8: beyond 300 once in 10^16
        return told.codes[0]


def of_many(count: int) -> SiteData:
    """Return so many of site-a's records."""
    data = data_of(ME, examples=2 * count)
    assert data.test is not None
    return SiteData(data.train, data.test)


def private_number() -> str:
    """Give site-a 977 records instead of 20, and compare all that leaves: the log, its answers' lengths, what is logged."""
    seen = []
    for count in (977, 20):
        with private_worlds("new") as world, heard() as lines:
            _give(world, of_many(count))
            raw: list[bytes] = []

            def answers(site: str, answer: bytes, raw: list[bytes] = raw) -> bytes:
                raw.extend([answer] if site == ME else [])
                return answer

            told = world.told(SGD, answers=answers)
            require_end(world, told, (0,), drawn=1)
            start = next(one for one in told.log if isinstance(one, RunStart))
            commit = next(one for one in told.log if one.type == "aggregate.commit")
            entries = [json.loads(entry.raw)["body"] for entry in world.ledger().export()]
            texts = [str(shape_of(receipt_of(told.log, ME))), *map(str, entries), *lines, str(start.config)]
            assert not [text for text in texts if re.search(r"(?<![0-9a-f])977(?![0-9a-f])", text)]
            weights = [one.weight for one in commit.inputs]  # type: ignore[attr-defined]
            lengths = [len(one) for one in raw]
            uploads = sorted(path.stat().st_size for path in (world.store / "objects").rglob("payload"))
            seen.append((shape_of(receipt_of(told.log, ME)), weights, lengths, uploads))
    assert seen[0] == seen[1]
    return "nothing found"


@contextmanager
def sealing() -> Iterator[list[np.ndarray[Any, Any]]]:
    """Keep what site-a seals."""
    made: list[np.ndarray[Any, Any]] = []
    honest = Workshop._seal

    def keep(shop: Workshop, verified: Any, schema: Any, update: Any, head: str | None) -> Any:
        chunks = [bytes(one) for one in update]
        if shop._identity == ME:
            made.append(np.frombuffer(b"".join(chunks[1:]), np.float32))
        return honest(shop, verified, schema, (memoryview(one) for one in chunks), head)

    with patch.object(Workshop, "_seal", keep):
        yield made


def fresh_noise(config: RunConfig) -> Callable[[], str]:
    """Train the same model on the same data with the same seed twice: is any number the same?"""

    def play() -> str:
        with sealing() as made:
            for _ in range(2):
                with private_worlds("new") as world:
                    told = world.told(config)
                    require_end(world, told, (0,), drawn=1)
        first, second = made
        assert first.size == 21
        assert (first != second).all()
        return told.codes[0]

    return play


def crafted_query() -> str:
    """Order site-a to evaluate a version in a private run: it does, and keeps what it found."""
    with private_worlds() as world:
        head = world.ledger().head
        raw, receipt = world.answer(granted(kind="evaluate", seq=9, privacy=None)(world))
        assert receipt is not None
        assert (receipt.metrics, json.loads(raw)["metrics"], json.loads(raw)["manifest"]) == (None, None, None)
        assert world.ledger().head == head
        return answer_of(raw)


OPEN = b"""
@id("all-but-metrics")
permit (principal, action, resource) unless { action == Counterseal::Action::"releaseMetrics" };
"""


def exact_metrics() -> str:
    """Start a run without terms at a site whose policy lets updates go and keeps metrics: nothing but updates leaves."""
    with private_worlds("new") as world:
        for name in world.federation.sites:
            world.federation.settings[name] = {"unprotected": True}
        world.federation.settings[ME] = {"policy": SitePolicy(OPEN), "unprotected": True}
        told = world.told(run_config(rounds=1, minimum_sites=2))
        require_end(world, told, (0,), drawn=0)
        mine = [one for one in told.log if isinstance(one, ReceiptFile) and one.actor == ME]
        assert {one.kind for one in mine} >= {"train", "receive"}
        assert {one.metrics for one in mine} == {None}
        assert receipt_of(told.log, OTHER).metrics is not None
        return told.codes[0]


def nan(x: Any, y: Any) -> None:
    x[0, 0] = np.nan


def huge(x: Any, y: Any) -> None:
    x[0, :] = 3e38


def no_class(x: Any, y: Any) -> None:
    y[0] = 10**6


def over_100(x: Any, y: Any) -> None:
    x[0, 0] = 1e9


def row(id_: str, where: Any, who: Any, attack: str, expected: str, play: Callable[[], str]) -> Row:
    return Row(id_, where, who, attack, expected, play)


def without_epochs() -> RunConfig:
    """Return a run under dp-sgd whose number of steps would follow from the number of records."""
    trainer = SGD.trainer.model_copy(update={"steps": None, "epochs": 1})
    return SGD.model_copy(update={"trainer": trainer})


def counts_of_sites() -> RunConfig:
    """Return a run that asks for counts under terms that say nothing of records."""
    privacy = PRIVATE.privacy
    assert privacy is not None
    return PRIVATE.model_copy(update={"rounds": 1, "privacy": privacy.model_copy(update={"counts": COUNTS})})


PRIVACY: tuple[Row, ...] = (
    row(
        "P5-001",
        "verifier",
        "site",
        "a site states nine tenths of its epsilon, each time (`counterseal audit privacy`)",
        "does not agree",
        stated(states(epsilon=lambda value: 0.9 * value)),
    ),
    row(
        "P5-002",
        "verifier",
        "site",
        "a site states the right epsilon at a smaller delta",
        "does not agree",
        stated(states(delta=1e-12)),
    ),
    row(
        "P5-003",
        "verifier",
        "site",
        "a site counts fewer releases than before",
        "obligation 15",
        lambda: stated(falling())(),
    ),
    row(
        "P5-004",
        "verifier",
        "site",
        "a site counts the same release twice as one",
        "obligation 15",
        stated(states(releases=1)),
    ),
    row(
        "P5-005",
        "verifier",
        "site",
        "a site counts more releases than the run announced",
        "obligation 15",
        stated(states(releases=5)),
    ),
    row(
        "P5-006",
        "verifier",
        "site",
        "a site states a smaller epsilon than before",
        "obligation 15",
        lambda: stated(receding())(),
    ),
    row(
        "P5-007",
        "verifier",
        "site",
        "a site does not state what it spent",
        "obligation 15",
        stated(lambda leave: replace(leave, spending=None)),
    ),
    row(
        "P5-008",
        "verifier",
        "site",
        "exact metrics beside a private release",
        "obligation 15",
        stated(lambda leave: replace(leave, metrics=True)),
    ),
    row("P5-009", "verifier", "site", "an epsilon stated in a run without terms", "obligation 15", unannounced),
    row(
        "P5-010",
        "verifier",
        "server",
        "another epsilon written into a site's receipt",
        "obligation 6 9 10 13",
        forged_receipt,
    ),
    row(
        "P5-011",
        "site",
        "server",
        "a model that mixes records in a layer (batch normalisation)",
        "unsupported_model",
        lambda: refused_by_all(of_model("normalised")),
    ),
    row(
        "P5-012",
        "site",
        "server",
        "a model that mixes records between its layers",
        "coupled_records",
        lambda: refused_by_all(of_model("coupled")),
    ),
    row(
        "P5-013",
        "site",
        "server",
        "a loss that is the mean of the batch, for everybody",
        "coupled_records",
        lambda: refused_by_all(
            SGD.model_copy(update={"trainer": SGD.trainer.model_copy(update={"loss": LossConfig(name="mean-loss")})})
        ),
    ),
    row(
        "P5-014",
        "site",
        "site",
        "a layer's rule that gives false per-record gradients",
        "unsupported_model",
        false_rule,
    ),
    row(
        "P5-015", "site", "server", "a record that is not a number: does the answer tell?", "accepted", bad_record(nan)
    ),
    row("P5-016", "site", "server", "a record that overflows: does the answer tell?", "accepted", bad_record(huge)),
    row("P5-017", "site", "server", "a record of no class: does the answer tell?", "accepted", bad_record(no_class)),
    row(
        "P5-018",
        "site",
        "server",
        "a model that fails on one record: does the answer tell?",
        "accepted",
        bad_record(over_100, "temper"),
    ),
    row(
        "P5-019",
        "site",
        "server",
        "noisy counts of a model that fails on one held-out record",
        "accepted",
        counted_twice,
    ),
    row(
        "P5-020",
        "everybody",
        "server",
        "977 records or 20: read from weights, statements, lengths, ledger or logs",
        "nothing found",
        private_number,
    ),
    row(
        "P5-021",
        "site",
        "server",
        "steps that follow from the number of records",
        "malformed",
        lambda: refused_by_all(without_epochs(), approve=False),
    ),
    row(
        "P5-022",
        "site",
        "server",
        "noisy counts under terms that do not protect records",
        "malformed",
        lambda: refused_by_all(counts_of_sites(), approve=False),
    ),
    row(
        "P5-023",
        "site",
        "server",
        "the same training twice, under dp-sgd: is any number the same?",
        "accepted",
        fresh_noise(SGD),
    ),
    row(
        "P5-024",
        "site",
        "server",
        "the same training twice, under output noise: is any number the same?",
        "accepted",
        fresh_noise(PRIVATE.model_copy(update={"rounds": 1})),
    ),
    row("P5-025", "site", "server", "a model sent for evaluation in a private run", "accepted", crafted_query),
    row("P5-026", "site", "server", "exact metrics asked of a site whose policy keeps them", "accepted", exact_metrics),
)
