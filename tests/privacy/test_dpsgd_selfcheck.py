"""The check on synthetic records finds what the list of layers cannot: coupling, wrong rules, state, torch's generator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from counterseal.privacy.dpsgd.hooks import RecordGradients
from counterseal.privacy.dpsgd.selfcheck import check_records
from counterseal.privacy.errors import CoupledRecordsError, PrivacyError, UnsupportedModelError


class Around(nn.Module):
    """A linear layer, and something that a container does after it."""

    def __init__(self, what: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(3))
        self.what = what

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.what(self, self.linear(x))


class Prompted(nn.Module):
    """A prompt looked up once for the whole batch, as prompt tuning does: a gradient [1, ...] for all records."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt, self.out = nn.Embedding(2, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        prompt = self.prompt(torch.arange(2)[None]).expand(len(x), -1, -1)
        return self.out(torch.cat([prompt, x[:, None]], dim=1).mean(dim=1))


def count(module: nn.Module, y: torch.Tensor) -> torch.Tensor:
    module.seen += y.detach().sum(dim=0)  # type: ignore[operator]
    return y


def replace(module: nn.Module, y: torch.Tensor) -> torch.Tensor:
    module.seen = y.detach().mean(dim=0)
    return y


def bypass(module: nn.Module, y: torch.Tensor) -> torch.Tensor:
    return y * (module.linear.weight**2).sum()  # type: ignore[union-attr, operator]


def records(model: nn.Module | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(5, 4, generator=generator), torch.randint(0, 3, (5,), generator=generator)


def entropy(model: nn.Module) -> Callable[..., torch.Tensor]:
    return lambda x, y: functional.cross_entropy(model(x), y, reduction="none")


COUPLED = {
    "softmax over the batch": lambda _, y: y.softmax(dim=0),
    "mean of the batch": lambda _, y: y - y.mean(dim=0),
    "size of the batch": lambda _, y: y / len(y),
    "attention to each other": lambda _, y: torch.softmax(y @ y.T, dim=-1) @ y,
    "the neighbour, faintly": lambda _, y: y + 1e-3 * y.roll(1, dims=0),
    "normalised by hand": lambda _, y: functional.batch_norm(y, None, None, training=True),
}


@pytest.mark.parametrize("name", COUPLED)
def test_coupled_records_are_found(name: str) -> None:
    torch.manual_seed(0)
    model = Around(COUPLED[name])
    with pytest.raises(PrivacyError) as raised:
        check_records(model, entropy(model), records())
    # batch_norm does not run on one record alone, which is a refusal too
    expected = UnsupportedModelError if name == "normalised by hand" else CoupledRecordsError
    assert type(raised.value) is expected


REFUSED = {
    "keeps statistics": (count, "buffer seen"),
    "replaces a buffer": (replace, "buffer seen"),
    "draws by itself": (lambda m, y: functional.dropout(y, 0.5, training=m.training), ""),
    "draws, but uses nothing of it": (lambda m, y: y + 0 * torch.rand(1), "self-check"),
    "uses a weight past its layer": (bypass, "linear.weight"),
    "fails": (lambda m, y: y @ y, "self-check"),
    "does not use the layer": (lambda m, y: y.detach(), "loss"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_state_generators_and_bypasses_are_refused(name: str) -> None:
    torch.manual_seed(0)
    what, where = REFUSED[name]
    model = Around(what)
    with pytest.raises(UnsupportedModelError if where else PrivacyError) as raised:
        check_records(model, entropy(model), records())
    assert not where or raised.value.where == where


def test_a_prompt_for_the_whole_batch_is_found() -> None:
    """Opacus alone would train it, and report an epsilon that is too small."""
    model = Prompted()
    with pytest.raises(CoupledRecordsError, match=r"shape \[1, 2, 4\] for 5 records") as raised:
        check_records(model, entropy(model), records())
    assert raised.value.where == "prompt.weight"
    assert "LoRA" in raised.value.remedy


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "mean": functional.cross_entropy,
    "sum": lambda s, y: functional.cross_entropy(s, y, reduction="sum"),
    "one for each output": lambda s, y: (s - y[:, None]) ** 2,
    "the mean, for everybody": lambda s, y: functional.cross_entropy(s, y).expand(len(y)),
    "over the batch's records": lambda s, y: functional.cross_entropy(s, y, reduction="none") / len(y),
    "over what counts in the batch": lambda s, y: (
        functional.cross_entropy(s, y, reduction="none", ignore_index=0) / (y > 0).sum().clamp(min=1)
    ),
    "no tensor": lambda s, y: 1.0,
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_a_batch_are_refused(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    x, y = records()
    with pytest.raises(CoupledRecordsError) as raised:
        check_records(model, lambda x, y: LOSSES[name](model(x), y), (x, y))
    assert raised.value.where == "loss" or name == "over what counts in the batch"


def test_a_wrong_grad_sampler_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from opacus.grad_sample import GradSampleHooks

    def wrong(layer: nn.Linear, activations: list[torch.Tensor], backprops: torch.Tensor) -> dict[Any, torch.Tensor]:
        found = torch.einsum("ni,nj->nij", backprops, activations[0])
        return {layer.weight: found * 1.001, layer.bias: backprops}

    monkeypatch.setitem(GradSampleHooks.GRAD_SAMPLERS, nn.Linear, wrong)
    model = nn.Linear(4, 3)
    with pytest.raises(UnsupportedModelError, match="not the gradient of that record") as raised:
        check_records(model, entropy(model), records())
    assert raised.value.where == "weight"


def test_an_unused_parameter_is_named() -> None:
    model = nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(4, 3)})
    with pytest.raises(UnsupportedModelError, match="does not depend on this trained parameter") as raised:
        check_records(model, lambda x, y: functional.cross_entropy(model["used"](x), y, reduction="none"), records())
    assert raised.value.where == "unused.weight"


@pytest.mark.parametrize("what", [lambda _, y: y, lambda _, y: y.softmax(dim=0)])
def test_the_model_comes_back_as_it_was(what: Callable[..., torch.Tensor]) -> None:
    """Whether it passed or not: parameters, mode, hooks, attributes, torch's generator."""
    model = Around(what).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    with contextlib.suppress(CoupledRecordsError):
        check_records(model, entropy(model), records())
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module.training or module._forward_hooks or module._backward_hooks for module in model.modules())
    assert all(parameter.grad is None and not vars(parameter) for parameter in model.parameters())


def test_gradients_of_records_do_not_stay_on_the_model() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0))
    names = list(model.state_dict())
    with RecordGradients(model) as hooks:
        hooks.rows(lambda: entropy(model)(*records()), 5)
        assert list(model.state_dict()) == names
        with pytest.raises(ValueError, match="in the middle"):
            hooks.rows(lambda: _fail(model(records()[0])), 5)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert all(parameter.grad_sample is None for parameter in model.parameters())  # type: ignore[attr-defined]
        assert not any("activations" in vars(module) for module in model.modules())
        rows = hooks.rows(lambda: entropy(model)(*records()), 5)
        assert rows.shape == (5, 15)
    assert all(not vars(parameter) for parameter in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    hooks.close()


def _fail(_: torch.Tensor) -> torch.Tensor:
    raise ValueError("in the middle")


def test_a_wrong_rule_behind_weights_of_zero_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a fresh LoRA adapter, whose second half is zero: every gradient before it is zero, right or wrong."""
    from opacus.grad_sample import GradSampleHooks

    right = GradSampleHooks.GRAD_SAMPLERS[nn.Embedding]

    def wrong(*arguments: Any) -> dict[Any, torch.Tensor]:
        return {parameter: found * 1.5 for parameter, found in right(*arguments).items()}

    monkeypatch.setitem(GradSampleHooks.GRAD_SAMPLERS, nn.Embedding, wrong)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(8, 3))
    nn.init.zeros_(model[2].weight)  # type: ignore[arg-type]
    x = torch.randint(0, 7, (5, 2), generator=torch.Generator().manual_seed(1))
    with pytest.raises(UnsupportedModelError, match="not the gradient of that record") as raised:
        check_records(model, entropy(model), (x, records()[1]))
    assert raised.value.where == "0.weight"
    assert not model[2].weight.any()  # type: ignore[operator]
