"""The allow-list: what may be trained passes the check on synthetic records, what may not says what to use instead."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, weight_norm

from counterseal.privacy.dpsgd.layers import check_model, trained
from counterseal.privacy.dpsgd.selfcheck import check_records
from counterseal.privacy.errors import UnsupportedModelError

IMAGE = (2, 6, 6)


def head(width: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(width, 3)]


class Last(nn.Module):
    """One of Opacus' layers over a sequence, and a head over the last element."""

    def __init__(self, name: str) -> None:
        from opacus import layers

        super().__init__()
        self.attends = name == "DPMultiheadAttention"
        self.layer = getattr(layers, name)(4, 2 if self.attends else 5, batch_first=True)
        self.out = nn.Linear(4 if self.attends else 5, 3)

    def forward(self, x: torch.Tensor) -> Any:
        found = self.layer(x, x, x) if self.attends else self.layer(x)
        return self.out(found[0][:, -1])


ALLOWED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), (5,)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), *head(18)), (2, 6)),
    "conv1d, stride and same": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3, padding="same", groups=2), nn.Conv1d(4, 3, 2, stride=2), *head(9)),
        (2, 6),
    ),
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.MaxPool2d(2), *head(36)), IMAGE),
    "conv2d, dilated": (lambda: nn.Sequential(nn.Conv2d(2, 3, 2, dilation=2, bias=False), *head(48)), IMAGE),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2, stride=2), nn.GELU(), *head(16)), (1, 4, 4, 4)),
    "embedding": (lambda: nn.Sequential(nn.Embedding(7, 4), *head(20)), (5,)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), *head(4)), (5,)),
    "layer norm, 2d": (lambda: nn.Sequential(nn.LayerNorm((2, 5)), *head(10)), (2, 5)),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), *head(64)), IMAGE),
    "instance norm": (lambda: nn.Sequential(nn.InstanceNorm2d(2, affine=True), *head(72)), IMAGE),
    "instance norm, 1d": (lambda: nn.Sequential(nn.InstanceNorm1d(2, affine=True), *head(12)), (2, 6)),
    "instance norm, 3d": (lambda: nn.Sequential(nn.InstanceNorm3d(1, affine=True), *head(27)), (1, 3, 3, 3)),
    "rms norm": (lambda: nn.Sequential(nn.Linear(5, 4), nn.RMSNorm(4), *head(4)), (5,)),
    "DPLSTM": (lambda: Last("DPLSTM"), (6, 4)),
    "DPGRU": (lambda: Last("DPGRU"), (6, 4)),
    "DPRNN": (lambda: Last("DPRNN"), (6, 4)),
    "DPMultiheadAttention": (lambda: Last("DPMultiheadAttention"), (6, 4)),
    "dropout": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), *head(4)), (5,)),
}


def records(shape: tuple[int, ...], *, tokens: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 7, (6, *shape), generator=generator) if tokens else torch.randn(6, *shape, generator=generator)
    return x, torch.randint(0, 3, (6,), generator=generator)


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed_layers_have_right_gradients(name: str) -> None:
    """Each against one plain backward per record, below 1e-4."""
    build, shape = ALLOWED[name]
    torch.manual_seed(0)
    model = build()
    check_records(
        model,
        lambda x, y: functional.cross_entropy(model(x), y, reduction="none"),
        records(shape, tokens=name == "embedding"),
    )


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


class Subclass(nn.Linear):
    pass


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def replaced() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.forward = lambda x: x @ layer.weight  # type: ignore[method-assign, assignment]
    return layer


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return weight_norm(nn.Linear(3, 3))


LSTM, GRU = "opacus.layers.DPLSTM", "DPGRU"
REFUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "batch norm": (lambda: nn.BatchNorm1d(3), "1", "GroupNorm"),
    "batch norm, frozen": (lambda: frozen(nn.BatchNorm2d(3)), "1", "GroupNorm"),
    "batch norm, no parameters": (lambda: nn.BatchNorm1d(3, affine=False, track_running_stats=False), "1", "GroupNorm"),
    "sync batch norm": (lambda: nn.SyncBatchNorm(3), "1", "GroupNorm"),
    "running statistics": (lambda: nn.InstanceNorm1d(3, track_running_stats=True), "1", "track_running_stats=False"),
    "lstm": (lambda: nn.LSTM(3, 3), "1", LSTM),
    "gru": (lambda: nn.GRU(3, 3), "1", GRU),
    "lstm cell": (lambda: nn.LSTMCell(3, 3), "1", LSTM),
    "attention": (lambda: nn.MultiheadAttention(4, 2), "1", "DPMultiheadAttention"),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(4, 2), "1", "DPMultiheadAttention"),
    "in place": (lambda: nn.ReLU(inplace=True), "1", "inplace=False"),
    "feature dropout": (lambda: nn.Dropout2d(0.1), "1", "nn.Dropout"),
    "alpha dropout": (lambda: nn.AlphaDropout(0.1), "1", "nn.Dropout"),
    "tied": (Tied, "1.second.weight", "Untie"),
    "raw parameter": (Raw, "1", "Freeze it, or build it of these"),
    "transposed convolution": (lambda: nn.ConvTranspose2d(2, 2, 3), "1", "Freeze it"),
    "subclass": (lambda: Subclass(3, 3), "1", "Use Linear itself"),
    "old weight norm": (old_weight_norm, "1", "Use Linear itself"),
    "layer norm without bias": (lambda: nn.LayerNorm(3, bias=False), "1", "bias=True"),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(3, 3)), "1", "Use Linear itself"),
    "replaced forward": (replaced, "1", "Remove what replaced its forward"),
    "circular padding": (lambda: nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), "1", "zeros"),
    "padding row": (lambda: nn.Embedding(5, 3, padding_idx=0), "1", "padding_idx"),
    "max_norm, frozen": (lambda: frozen(nn.Embedding(5, 3, max_norm=1.0)), "1", "couple records"),
    "gradient by frequency": (lambda: nn.Embedding(5, 3, scale_grad_by_freq=True), "1", "couple records"),
    "embedding bag": (lambda: nn.EmbeddingBag(5, 3), "1", "nn.Embedding"),
    "lazy": (lambda: nn.LazyLinear(3), "1", "Use Linear itself"),
    "float64": (lambda: nn.Linear(3, 3).double(), "1.weight", "float32"),
    "bfloat16": (lambda: nn.Linear(3, 3).bfloat16(), "1.weight", "float32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_layers_say_what_to_use(name: str) -> None:
    build, where, remedy = REFUSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch on lazy modules
        model = nn.Sequential(nn.Linear(3, 3), build())
    with pytest.raises(UnsupportedModelError) as raised:
        check_model(model)
    assert raised.value.where == where
    assert remedy in raised.value.remedy


def test_quantised_layers_are_known_by_their_library() -> None:
    kind = type("Linear4bit", (nn.Linear,), {"__module__": "bitsandbytes.nn.modules"})
    with pytest.raises(UnsupportedModelError, match="quantised"):
        check_model(nn.Sequential(nn.Linear(3, 3), frozen(kind(3, 3))))


def test_an_unknown_adapter_of_peft_is_refused() -> None:
    kind = type("Linear", (nn.Module,), {"__module__": "peft.tuners.novelty.layer"})
    with pytest.raises(UnsupportedModelError, match="Use LoRA on linear layers"):
        check_model(nn.Sequential(nn.Linear(3, 3), kind()))


def test_a_name_alone_is_not_a_type() -> None:
    """A class that only says that it is LlamaRMSNorm owns a trained parameter and is refused."""
    kind = type("LlamaRMSNorm", (Raw,), {"__module__": "transformers.models.llama.modeling_llama"})
    with pytest.raises(UnsupportedModelError, match="nobody has measured"):
        check_model(nn.Sequential(nn.Linear(3, 3), kind()))


def test_nothing_to_train() -> None:
    with pytest.raises(UnsupportedModelError, match="nothing in this model is trained"):
        check_model(frozen(nn.Linear(3, 3)))


def test_frozen_parts_may_be_of_any_type_and_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3), frozen(Raw()), frozen(Tied()), frozen(nn.Linear(3, 3).bfloat16()))
    check_model(model)
    assert list(trained(model)) == ["0.weight", "0.bias"]


def test_opacus_leaves_no_handler_on_the_root_logger() -> None:
    from counterseal.privacy.dpsgd import hooks

    before = list(logging.getLogger().handlers)
    hooks._opacus()
    assert logging.getLogger().handlers == before
