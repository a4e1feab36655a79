"""Dropout whose masks come from the step's keystream.

torch draws one mask for a batch from one seeded generator, so the mask of a record follows from its place in the batch. If the
seed is known, removing a record gives every record after it another mask, hence another gradient: one record's part in the sum
is then not bounded by its own clipped gradient. With secret masks, independent from element to element, the masks of the
others may be taken to be the same with and without the record (their law does not depend on its presence), and the bound
holds for every value of the masks: the release is a mixture over them.

So each ``nn.Dropout`` stands in evaluation mode, where it does nothing, and a hook multiplies its output by mask / (1 - p). Other
kinds are refused by `layers`; a model that draws random numbers in another way is refused by `selfcheck`.

Source: Srivastava et al. 2014. Not handled here: what dropout does for learning under noise (usually nothing good).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..noise import Bernoulli, Keystream

__all__ = ["KeyedDropout"]


class KeyedDropout:
    """Takes over the dropout of ``model`` until `close`."""

    def __init__(self, model: nn.Module) -> None:
        self.stream: Keystream | None = None
        self._model = model
        self._modules = [one for one in model.modules() if type(one) is nn.Dropout and one.p > 0]
        self._handles = [one.register_forward_hook(self._drop) for one in self._modules]

    def prepare(self, stream: Keystream | None) -> None:
        """Put the model into training mode, with masks from ``stream``; without one nothing is dropped."""
        self._model.train()
        for module in self._modules:
            module.eval()
        self.stream = stream

    def close(self) -> None:
        """Give the model its dropout back."""
        self.stream = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _drop(self, module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        if self.stream is None:
            return None
        keep = 1.0 - float(module.p)  # type: ignore[arg-type]
        if keep <= 0:
            return torch.zeros_like(output)
        mask = torch.from_numpy(Bernoulli(keep).mask(output.numel(), self.stream)).to(output.device)
        return output * mask.reshape(output.shape) / keep
