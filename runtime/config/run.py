"""`RunConfig`: one training, as everybody sees it.

It is written into the signed `run.start` event, so it is canonical JSON under 32 kB and holds nothing that belongs to
one party: no path, no address, no secret. Where data lies, which device computes and which plug-ins are approved is
each party's own configuration.

Not handled here: whether the named model, loss or metric exists. Each party's registry answers that before any data is
touched.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...algorithms.errors import AlgorithmError
from ...algorithms.rule import make_rule
from ...trust.canonical import canonical
from ...trust.identifiers import Identifier, sha256
from .parts import Config, Device, Parameters, PluginName
from .privacy import RunPrivacy

__all__ = [
    "AggregationConfig",
    "EvaluationConfig",
    "LossConfig",
    "MetricConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "SchedulerConfig",
    "TrainerConfig",
]

_LIMIT = 32 * 1024

_ADMM = ("iiadmm", "iceadmm")
_NOISY = "dp-fedavg"
_NOISE = ("noise_multiplier", "sites", "delta")
_PENALTY = ("rho", "zeta", "balance_mu", "balance_tau", "rho_min", "rho_max")

Count = Annotated[int, Field(ge=1, le=10**9)]
Positive = Annotated[float, Field(gt=0)]


class _Named(Config):
    name: PluginName
    """The registry name."""
    parameters: Parameters = Field(default_factory=dict)
    """Parameters, passed through."""


class ModelConfig(_Named):
    """The model: `logistic`, `linear`, `mlp`, `cnn`, or a plug-in."""


class OptimizerConfig(_Named):
    """The optimiser of the sites: `sgd`, `adam`, `adamw`, ... with torch's own parameters."""


class SchedulerConfig(_Named):
    """The learning-rate schedule; torch's own parameters."""

    step: Literal["epoch", "round"] = "epoch"
    """Step after every epoch and start anew in every round, or step once a round."""


class LossConfig(_Named):
    """The loss, one value per record; the mean over a batch is minimised."""


class MetricConfig(_Named):
    """A metric of an evaluation."""


class TrainerConfig(Config):
    """How a site trains in one round."""

    name: PluginName = "torch"
    """`torch`, `numpy-linear`, or a plug-in."""
    optimizer: OptimizerConfig = OptimizerConfig(name="sgd", parameters={"lr": 0.1})
    """The optimiser."""
    scheduler: SchedulerConfig | None = None
    """The learning-rate schedule; none keeps the rate."""
    loss: LossConfig = LossConfig(name="cross-entropy")
    """The loss."""
    metrics: Annotated[tuple[MetricConfig, ...], Field(max_length=32)] = (MetricConfig(name="accuracy"),)
    """The metrics of an evaluation; `loss` is always among them."""
    epochs: Count | None = None
    """Passes over the site's data in one round (this or `steps`)."""
    steps: Count | None = None
    """Batches in one round (this or `epochs`)."""
    batch_size: Count = 32
    """Records in a batch; the last batch of a pass may be smaller."""
    clip_gradient_norm: Positive | None = None
    """Scale each batch's gradient down to this L2 norm; this is not differential privacy."""
    device: Device = "auto"
    """The device that the run asks for; a site's own `device` wins."""

    @model_validator(mode="after")
    def _check(self) -> TrainerConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("name exactly one of epochs, steps")
        names = [metric.name for metric in self.metrics]
        if len(set(names)) != len(names):
            raise ValueError("the same metric is named twice")
        return self


class AggregationConfig(Config):
    """How updates become the next version."""

    rule: Identifier = "norm-clipped-fedavg"
    """The aggregation rule: `norm-clipped-fedavg`, `fedavg`, `iiadmm`, `iceadmm`, `dp-fedavg`."""
    clip_norm: Positive
    """The largest L2 norm with which one update counts."""
    rho: Positive | None = None
    """ADMM: the penalty that every site begins with."""
    zeta: Annotated[float, Field(ge=0)] | None = None
    """ADMM: the proximity of each local step to the one before; 0 if not given."""
    balance_mu: Annotated[float, Field(ge=1)] | None = None
    """ADMM: let a site's penalty follow its residuals once one is this many times the other (with `balance_tau`)."""
    balance_tau: Annotated[float, Field(gt=1)] | None = None
    """ADMM: the factor by which it follows."""
    rho_min: Positive | None = None
    """ADMM: the least that a penalty becomes when it follows; by default `rho`."""
    rho_max: Positive | None = None
    """ADMM: the most that a penalty becomes when it follows; by default 1024 times `rho`."""
    noise_multiplier: Positive | None = None
    """`dp-fedavg`: standard deviation of the server's noise on the sum of the updates, over `clip_norm`."""
    sites: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """`dp-fedavg`: what the sum is divided by, the number of sites in the charter."""
    delta: Annotated[float, Field(gt=0, lt=0.1)] | None = None
    """`dp-fedavg`: the delta at which epsilon is stated; well below one in `sites`."""

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters of the rule, as `make_rule` takes them."""
        if self.rule == "fedavg":
            return {}
        if self.noise_multiplier is not None and self.sites is not None:
            return {"clip_norm": self.clip_norm, "noise_multiplier": self.noise_multiplier, "sites": self.sites}
        return {"clip_norm": self.clip_norm, **self._admm}

    @property
    def _admm(self) -> dict[str, float]:
        values = (getattr(self, name) for name in _PENALTY)
        return {name: value for name, value in zip(_PENALTY, values, strict=True) if value is not None}

    @model_validator(mode="after")
    def _noisy(self) -> AggregationConfig:
        given = [name for name in _NOISE if getattr(self, name) is not None]
        if self.rule != _NOISY:
            if given:
                raise ValueError(f"{given[0]} is a parameter of {_NOISY}, not of {self.rule}")
            return self
        for name in _NOISE:
            if name not in given:
                raise ValueError(f"{_NOISY} needs {', '.join(_NOISE)}: there is no {name}")
        try:
            make_rule(self.rule, self.parameters)
        except AlgorithmError as error:
            raise ValueError(error.what) from None
        return self

    @model_validator(mode="after")
    def _rule(self) -> AggregationConfig:
        given = self._admm
        if self.rule not in _ADMM:
            if given:
                raise ValueError(f"{min(given)} is a parameter of {' and '.join(_ADMM)}, not of {self.rule}")
            return self
        if "rho" not in given:
            raise ValueError(f"{self.rule} needs rho, the penalty that every site begins with")
        if ("balance_mu" in given) != ("balance_tau" in given):
            raise ValueError("balance_mu and balance_tau are given together or not at all")
        if "balance_mu" not in given and {"rho_min", "rho_max"} & set(given):
            raise ValueError(
                "rho_min and rho_max bound a penalty that follows: give balance_mu and balance_tau as well"
            )
        try:
            make_rule(self.rule, self.parameters)
        except AlgorithmError as error:
            raise ValueError(error.what) from None
        return self


class EvaluationConfig(Config):
    """Who evaluates each version."""

    sites: bool = True
    """Every site evaluates on its own held-out data and reports the metrics."""
    server: bool = False
    """The server evaluates on data of its own; its `loader` says which."""


class RunConfig(Config):
    """One training: model, trainer, aggregation, deadlines."""

    name: Identifier
    """The run's name."""
    seed: Annotated[int, Field(ge=0, le=2**53 - 1)]
    """All of the run's ordinary randomness follows from it; privacy noise never does."""
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    """How many versions the run makes."""
    model: ModelConfig
    """The model."""
    trainer: TrainerConfig
    """The trainer."""
    aggregation: AggregationConfig
    """The aggregation."""
    minimum_sites: Annotated[int, Field(ge=1, le=10_000)]
    """Updates without which a round is aborted."""
    round_seconds: Annotated[int, Field(ge=1, le=30 * 86_400)] = 3_600
    """The deadline of a round."""
    retries: Annotated[int, Field(ge=0, le=100)] = 2
    """How often a failed delivery is repeated, and an aborted round opened again."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Who evaluates."""
    privacy: RunPrivacy | None = None
    """The privacy terms of the run; without any, updates leave the sites exactly as they were computed."""

    @model_validator(mode="after")
    def _central(self) -> RunConfig:
        if self.aggregation.rule != _NOISY:
            return self
        if self.privacy is not None:
            raise ValueError(
                f"{_NOISY} noises at the server, which the sites trust with exact updates: leave privacy out"
            )
        if self.evaluation.sites:
            raise ValueError("exact metrics of a site would stand beside the noisy model: say evaluation.sites: false")
        return self

    @model_validator(mode="after")
    def _private(self) -> RunConfig:
        if self.privacy is None:
            return self
        if self.evaluation.sites:
            raise ValueError(
                "exact metrics of a site say something about its records: say evaluation.sites: false (privacy.counts offers "
                "noisy ones)"
            )
        for terms in (self.privacy.terms, *self.privacy.sites.values()):
            if terms.mechanism == "dp-sgd" and self.trainer.steps != terms.steps:
                raise ValueError(
                    "dp-sgd takes a fixed number of steps: trainer.steps and privacy.terms.steps must be equal"
                )
            if terms.mechanism != "dp-sgd" and self.aggregation.rule == "iceadmm":
                raise ValueError(
                    "iceadmm sends its dual too, a second release that output mechanisms do not cover: use iiadmm"
                )
            if terms.releases < self.rounds:
                raise ValueError("privacy.terms.releases must be at least the number of rounds")
        return self

    @model_validator(mode="after")
    def _sound(self) -> RunConfig:
        """The dual of ICEADMM is a function of points that were never noised: output perturbation would not cover it."""
        if self.privacy is not None and self.aggregation.rule == "iceadmm":
            for terms in (self.privacy.terms, *self.privacy.sites.values()):
                if terms.mechanism != "dp-sgd":
                    raise ValueError(
                        f"iceadmm releases a dual that {terms.mechanism} does not cover: take iiadmm or dp-sgd"
                    )
        return self

    @model_validator(mode="after")
    def _fits_a_leaf(self) -> RunConfig:
        if len(self.payload()) > _LIMIT:
            raise ValueError(f"the run is over {_LIMIT} bytes as canonical JSON: it would not fit a log leaf")
        return self

    def payload(self) -> bytes:
        """Return the canonical JSON that goes into `run.start`."""
        return canonical(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of `payload`, in hexadecimal."""
        return sha256(self.payload())
