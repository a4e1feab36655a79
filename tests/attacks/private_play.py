"""How attacks on private runs are played: what happens in the middle of a training, and what must be true at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from counterseal.audit.events import ReceiptFile
from counterseal.runtime.config import RunConfig
from counterseal.runtime.training.registry import build_trainer
from counterseal.runtime.training.seam import SiteData

from ..federation import data_of
from .private_world import PrivateWorld, Told
from .world import ME

__all__ = ["Hooked", "PowerCutError", "comparable", "hooked", "require_end"]


class PowerCutError(BaseException):
    """The process ends here."""


class Hooked:
    """A trainer that lets something happen before it trains."""

    def __init__(self, trainer: Any, before: Callable[[int], None]) -> None:
        self._trainer = trainer
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    def train(self, parameters: Any, **more: Any) -> Any:
        """Train."""
        self._before(more["round_number"])
        return self._trainer.train(parameters, **more)


def hooked(before: Callable[[int], None], data: SiteData | None = None) -> dict[str, Any]:
    """Return the settings of a site-a in which something happens between the debit and the training."""
    found = data or data_of(ME)

    def trainers(config: RunConfig) -> Hooked:
        terms = None if config.privacy is None else config.privacy.of(ME)
        return Hooked(build_trainer(config, site=ME, data=found, privacy=terms), before)

    return {"trainers": trainers}


def require_end(world: PrivateWorld, told: Told, counted: tuple[int, ...], drawn: int) -> None:
    """The run ended, site-a counted in these versions and no others, and its ledger paid for so many releases."""
    assert told.outcome == "completed"
    assert told.counted == counted, told.codes
    assert world.drawn(run=world.config.name) == drawn
    assert world.verify() == []


def comparable(receipt: ReceiptFile | None) -> dict[str, Any]:
    """Return everything that a receipt says but when: the head of a ledger is a digest over times too."""
    assert receipt is not None
    left_out = {"time", "cosignature", "ticket", "checkpoint", "previous"}
    found = {key: value for key, value in receipt.model_dump(mode="json").items() if key not in left_out}
    if found["spending"] is not None:
        found["spending"] = {**found["spending"], "ledger": "" if found["spending"]["ledger"] is None else "a digest"}
    return found
