"""Names to builders: what `model: {name: mlp}` means at this party.

Order: built-ins, then the plug-ins that this party approved in its configuration, then entry points of installed
distributions (groups `counterseal.models`, `.losses`, `.metrics`, `.trainers`). A built-in's name cannot be taken
over by either. A name from a run is only ever looked up: nothing that a peer sent is imported or evaluated.

Built-ins that need torch are kept as text and imported when they are first built, so this module loads no torch.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ...errors import CountersealError
from ...trust.terms import PrivacyTerms
from ..config import PluginConfig, RunConfig
from ..errors import TrainingError
from .metrics import METRICS
from .plugins import entry_point_names, load_plugin
from .seam import SiteData, Trainer, TrainerContext

__all__ = ["Registry", "build_trainer"]

_HERE = __package__ or ""
_BUILT_IN: dict[str, dict[str, Any]] = {
    "model": {
        "logistic": ".models:logistic",
        "linear": ".models:linear",
        "mlp": ".models:mlp",
        "cnn": ".models:cnn",
    },
    "loss": {
        "cross-entropy": ".losses:cross_entropy",
        "mse": ".losses:mean_squared_error",
        "mae": ".losses:mean_absolute_error",
        "huber": ".losses:huber",
        "bce-with-logits": ".losses:binary_cross_entropy",
    },
    "metric": METRICS,
    "trainer": {
        "torch": ".torch_trainer:TorchTrainer",
        "numpy-linear": ".numpy_trainer:NumpyLinearTrainer",
    },
}


class Registry:
    """One party's meaning of the names of models, losses, metrics and trainers."""

    def __init__(self, plugins: tuple[PluginConfig, ...] = ()) -> None:
        self._approved: dict[tuple[str, str], PluginConfig] = {}
        for plugin in plugins:
            if plugin.name in _BUILT_IN[plugin.kind]:
                raise TrainingError(
                    f"the plug-in {plugin.name!r} takes the name of a built-in {plugin.kind}",
                    remedy="Give it another name.",
                )
            self._approved[(plugin.kind, plugin.name)] = plugin

    def known(self, kind: str) -> list[str]:
        """Return every name of ``kind`` (`model`, `loss`, `metric`, `trainer`), sorted."""
        approved = {name for (its_kind, name) in self._approved if its_kind == kind}
        return sorted({*_BUILT_IN[kind], *approved, *entry_point_names(kind)})

    def find(self, kind: str, name: str) -> Callable[..., Any]:
        """Return the builder of ``name``.

        Raises:
            TrainingError: no such name; it lists the known ones.
            PluginError: the plug-in is not what was approved.
        """
        built_in = _BUILT_IN[kind].get(name)
        if isinstance(built_in, str):
            module, attribute = built_in.split(":")
            return _callable(getattr(_import(module), attribute))
        if built_in is not None:
            return _callable(built_in)
        if (kind, name) in self._approved:
            plugin = self._approved[(kind, name)]
            return load_plugin(plugin, kind)
        if name in entry_point_names(kind):
            return load_plugin(PluginConfig.model_construct(kind=kind, name=name, entry_point=name), kind)
        raise unknown(kind, name, self.known(kind))

    def build(self, kind: str, name: str, parameters: Mapping[str, JsonValue]) -> Any:
        """Return what the builder of ``name`` makes of ``parameters``.

        Raises:
            TrainingError: no such name, or parameters that it does not take.
        """
        return call(self.find(kind, name), f"{kind} {name!r}", parameters)


def build_trainer(
    run: RunConfig,
    *,
    site: str,
    data: SiteData | None = None,
    device: str | None = None,
    checkpoints: Path | None = None,
    plugins: tuple[PluginConfig, ...] = (),
    privacy: PrivacyTerms | None = None,
) -> Trainer:
    """Return the run's trainer at ``site`` (an identity); without ``data`` it gives version 0 only.

    Under ``dp-sgd`` the trainer `torch` is exchanged for its private like; no other trainer is known to keep those terms.

    Raises:
        TrainingError: a name that this party does not know, a parameter that is not taken, a device that is not there.
    """
    registry = Registry(plugins)
    context = TrainerContext(
        model=run.model,
        trainer=run.trainer,
        site=site,
        data=data,
        device=device if device is not None else run.trainer.device,
        checkpoints=checkpoints,
        registry=registry,
        privacy=privacy,
    )
    trainer: Trainer = _builder(registry, run.trainer.name, privacy)(context)
    return trainer


def _builder(registry: Registry, name: str, privacy: PrivacyTerms | None) -> Callable[..., Any]:
    if privacy is None or privacy.mechanism != "dp-sgd":
        return registry.find("trainer", name)
    if name != "torch":
        raise TrainingError(f"the trainer {name!r} is not known to keep dp-sgd", remedy="Use the trainer `torch`.")
    return _callable(_import(".private_trainer").PrivateTorchTrainer)


def unknown(kind: str, name: str, known: list[str]) -> TrainingError:
    """Return the error for a name that nobody registered."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return TrainingError(f"no {kind} is called {name!r}", remedy=f"{hint}Known here: {', '.join(known)}.")


def call(builder: Callable[..., Any], what: str, parameters: Mapping[str, Any], *first: Any) -> Any:
    """Call ``builder`` with the user's parameters, and say so if it does not take them.

    Raises:
        TrainingError: it refused them.
    """
    try:
        return builder(*first, **parameters)
    except CountersealError:
        raise
    except Exception as error:  # a builder is foreign code: whatever it raises is about these parameters
        text = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{what} does not take these parameters ({type(error).__name__}: {text})",
            remedy=f"Given: {', '.join(sorted(parameters)) or 'none'}.",
        ) from error


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module, _HERE)
    except ImportError as error:
        raise TrainingError(
            f"{error.name or 'a library'} is not installed", remedy="Install counterseal[torch]."
        ) from None


def _callable(found: Any) -> Callable[..., Any]:
    if not callable(found):
        raise TrainingError("a registry entry that cannot be called")
    return found  # type: ignore[no-any-return]
