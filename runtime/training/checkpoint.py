"""Checkpoints inside one round: safetensors files in the site's own folder, never a pickle.

A checkpoint is named by everything that its training follows from: model and trainer configuration, site, seed, round,
starting parameters, data, device. It is used only for that training and stands for exactly that many epochs, so a resumed
training gives the bytes of an uninterrupted one. One file is kept; it replaces its predecessor atomically.

A checkpoint is as private as the data it was trained on: file 0600, folder 0700, never sent. Whoever can write to the
folder can change the training; no signature defends it from the site's own rights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors import numpy as tensors
from torch import nn, optim
from torch.optim.lr_scheduler import LRScheduler

from ...durable import Probe, make_folder, replace_file, silent
from ..errors import TrainingError
from .seam import Array, Arrays, TrainerContext, parameters_digest

__all__ = ["Checkpoints", "Progress", "training_key"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a round's training has come."""

    epochs: int
    losses: tuple[float, ...]


def training_key(
    context: TrainerContext, start: Mapping[str, Array], data: Arrays, seed: int, round_number: int, device: str
) -> str:
    """Return the name of a training: a digest over all that it follows from."""
    trainer = context.trainer.model_dump(mode="json", exclude={"device"})
    parts = [
        json.dumps([context.model.model_dump(mode="json"), trainer, context.site, seed, round_number, device]),
        parameters_digest(start),
        parameters_digest({"x": data.x, "y": data.y}),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Checkpoints:
    """The checkpoint of one training in a folder."""

    def __init__(self, folder: Path, key: str, probe: Probe = silent) -> None:
        self._folder, self._key, self._probe = folder, key, probe
        self._path = folder / f"checkpoint-{key[:32]}.safetensors"

    def save(
        self, progress: Progress, model: nn.Module, optimizer: optim.Optimizer, scheduler: LRScheduler | None
    ) -> None:
        """Write the state after ``progress``; checkpoints of other trainings are removed once this one is durable."""
        make_folder(self._folder, 0o700)
        arrays = {f"model/{name}": _array(value) for name, value in model.state_dict().items()}
        state = optimizer.state_dict()
        numbers: dict[str, Any] = {}
        for index, entries in state["state"].items():
            for name, value in entries.items():
                if isinstance(value, torch.Tensor):
                    arrays[f"optimizer/{index}/{name}"] = _array(value)
                else:
                    numbers[f"{index}/{name}"] = value
        record = {
            "key": self._key,
            "epochs": progress.epochs,
            "losses": progress.losses,
            "numbers": numbers,
            "groups": [_scalars(group) for group in state["param_groups"]],
            "scheduler": None if scheduler is None else _scalars(scheduler.state_dict()),
        }
        data = tensors.save(arrays, metadata={"counterseal-checkpoint": json.dumps(record)})
        replace_file(self._path, data, step="checkpoint", probe=self._probe, mode=0o600)
        for other in self._folder.glob("checkpoint-*.safetensors"):
            if other != self._path:
                other.unlink(missing_ok=True)

    def restore(self, model: nn.Module, optimizer: optim.Optimizer, scheduler: LRScheduler | None) -> Progress | None:
        """Put the saved state into the three, and return how far it is; None if there is none.

        Raises:
            TrainingError: the file is damaged.
        """
        if not self._path.exists():
            return None
        try:
            record, arrays = self._read()
            if record["key"] != self._key:
                raise ValueError("another training's")
            model.load_state_dict({name: value for (kind, name), value in arrays.items() if kind == "model"})
            _restore_optimizer(optimizer, record, arrays)
            if scheduler is not None:
                scheduler.load_state_dict(record["scheduler"])
            return Progress(int(record["epochs"]), tuple(float(loss) for loss in record["losses"]))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise TrainingError(
                f"the checkpoint is damaged ({type(error).__name__})",
                where=self._path.name,
                remedy="Remove the file: the round is then trained again from its start.",
            ) from error

    def _read(self) -> tuple[dict[str, Any], dict[tuple[str, str], torch.Tensor]]:
        with safe_open(self._path, framework="numpy") as file:
            record: dict[str, Any] = json.loads(file.metadata()["counterseal-checkpoint"])
            found = {name: torch.from_numpy(np.array(file.get_tensor(name))) for name in file.keys()}  # noqa: SIM118
        split = {tuple(name.split("/", 1)): value for name, value in found.items()}
        return record, {(kind, name): value for (kind, name), value in split.items()}


def _restore_optimizer(
    optimizer: optim.Optimizer, record: dict[str, Any], arrays: Mapping[tuple[str, str], torch.Tensor]
) -> None:
    state: dict[int, dict[str, Any]] = {}
    saved = {name: value for (kind, name), value in arrays.items() if kind == "optimizer"}
    for place, value in [*saved.items(), *record["numbers"].items()]:
        index, name = place.split("/", 1)
        state.setdefault(int(index), {})[name] = value
    groups = [
        {**group, **saved_group}
        for group, saved_group in zip(optimizer.state_dict()["param_groups"], record["groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what changes during training; tuples, lists and tables come from the configuration, and stay."""
    plain = {name: value for name, value in values.items() if isinstance(value, int | float | str | None)}
    # `_last_lr` is the one list that moves.
    return plain | ({"_last_lr": values["_last_lr"]} if "_last_lr" in values else {})


def _array(value: torch.Tensor) -> Array:
    return np.ascontiguousarray(value.detach().cpu().numpy()).reshape(tuple(value.shape))
