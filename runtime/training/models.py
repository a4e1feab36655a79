"""Models by registry name: `logistic`, `linear`, `mlp`, `cnn`. All sizes are parameters; none is read from the data."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from ..errors import TrainingError

__all__ = ["cnn", "linear", "logistic", "mlp"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "elu": nn.ELU,
}


def logistic(inputs: int, classes: int) -> nn.Module:
    """Softmax regression: examples are flattened to float32[B, inputs]; scores [B, classes]."""
    return linear(inputs, classes)


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Module:
    """One linear map from float32[B, inputs] (flattened) to [B, outputs]."""
    layer = nn.Linear(_size("inputs", inputs), _size("outputs", outputs), bias=bias)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), linear=layer))


def mlp(
    inputs: int, classes: int, hidden: Sequence[int] = (64,), activation: str = "relu", dropout: float = 0.0
) -> nn.Module:
    """A multilayer perceptron: float32[B, inputs] (flattened) through the ``hidden`` widths to [B, classes]."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = _size("inputs", inputs)
    for number, size in enumerate(hidden, 1):
        layers[f"hidden{number}"] = nn.Linear(width, _size("hidden", size))
        layers[f"activation{number}"] = _activation(activation)
        if dropout:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
        width = size
    layers["output"] = nn.Linear(width, _size("classes", classes))
    return nn.Sequential(layers)


class _Image(nn.Module):
    """Gives every example the shape [channels, height, width], which flat loaders leave out."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self._shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` as float32[B, channels, height, width]."""
        return x.reshape(len(x), *self._shape)


def cnn(
    image: Sequence[int],
    classes: int,
    channels: Sequence[int] = (16, 32),
    kernel: int = 3,
    hidden: int = 64,
    activation: str = "relu",
    dropout: float = 0.0,
    group_norm: int = 0,
) -> nn.Module:
    """A small convolutional network for ``image`` = [channels, height, width], such as [1, 8, 8] or [1, 28, 28].

    Every stage is a convolution that keeps the size, an activation, and a pooling that halves it. ``group_norm`` is the
    number of groups of a normalisation (0: none); batch normalisation is not offered, because it mixes records.
    """
    if len(image) != 3:
        raise TrainingError("image must be [channels, height, width]", where="model.parameters")
    if _size("kernel", kernel) % 2 == 0:
        raise TrainingError("kernel must be odd", where="model.parameters")
    before, height, width = (_size("image", size) for size in image)
    layers: OrderedDict[str, nn.Module] = OrderedDict(image=_Image((before, height, width)))
    for number, after in enumerate(channels, 1):
        if min(height, width) < 2:
            raise TrainingError("the image is too small for so many channels", where="model.parameters")
        layers[f"convolution{number}"] = nn.Conv2d(before, _size("channels", after), kernel, padding=kernel // 2)
        if group_norm:
            layers[f"norm{number}"] = nn.GroupNorm(group_norm, after)
        layers[f"activation{number}"] = _activation(activation)
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        before, height, width = after, height // 2, width // 2
    layers["flatten"] = nn.Flatten()
    layers["hidden"] = nn.Linear(before * height * width, _size("hidden", hidden))
    layers["activation"] = _activation(activation)
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    layers["output"] = nn.Linear(hidden, _size("classes", classes))
    return nn.Sequential(layers)


def _size(name: str, value: int) -> int:
    if type(value) is not int or not 1 <= value <= 10**7:
        raise TrainingError(f"{name} must be whole numbers from 1 to 10,000,000", where="model.parameters")
    return value


def _activation(name: str) -> nn.Module:
    if name not in _ACTIVATIONS:
        raise TrainingError(
            "no such activation", where="model.parameters.activation", remedy=f"Known: {', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]()
