"""Which models DP-SGD may train: a list of layers by exact type, and for everything else what to use instead.

Clipping bounds a record's part in a step only if what is clipped is that record's gradient and nothing else changes with the
record. So a layer that owns trained parameters must be one of `LAYERS` or `FOREIGN`, ``type(m) is ...``: a subclass may compute
anything. Those were measured (tests/privacy/test_dpsgd_layers.py: error against one backward per record below 1e-4). Layers that
own nothing that is trained may be of any type, except where it is known that they mix records, keep state of them, or
break the hooks; whatever else they do is left to `selfcheck`.

Refused wherever they stand, trained or not:

- batch normalisation, and any statistics kept over batches: they are computed from all records and are released with the model;
- ``Embedding(max_norm=...)``: its forward pass rewrites the rows that the records used, before any clipping;
- in-place activations, gradient checkpointing: they break the hooks;
- PEFT types other than LoRA on linear layers. Prompt tuning is the worst: Opacus gives a gradient [1, tokens, width] for the
  whole batch, training runs, and the epsilon that is reported is too small.

Not handled here: a container that mixes records in its own `forward` (`selfcheck` compares rows in different batches).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ..errors import UnsupportedModelError

__all__ = ["ADAPTERS", "FOREIGN", "LAYERS", "check_model", "trained"]

LAYERS: Final[tuple[type[nn.Module], ...]] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.Embedding,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.RMSNorm,
)
"""torch's layers that may own trained parameters."""

FOREIGN: Final = (
    "transformers.models.llama.modeling_llama.LlamaRMSNorm",
    "opacus.layers.dp_rnn.RNNLinear",
    "opacus.layers.dp_rnn.DPRNN",
    "opacus.layers.dp_rnn.DPGRU",
    "opacus.layers.dp_rnn.DPLSTM",
)
"""Layers of other libraries that may own trained parameters."""

_ALIASING: Final = FOREIGN[
    2:
]  # they give the parameters of their cells a second name, that of torch's LSTM, on purpose

ADAPTERS: Final = (
    "peft.tuners.lora.layer.Linear",
    "peft.tuners.lora.model.LoraModel",
    "peft.utils.other.ModulesToSaveWrapper",
    "peft.peft_model.PeftModel",
    "peft.peft_model.PeftModelForCausalLM",
    "peft.peft_model.PeftModelForSequenceClassification",
    "peft.peft_model.PeftModelForTokenClassification",
    "peft.peft_model.PeftModelForFeatureExtraction",
)
"""All of PEFT that may stand in a model."""

_LORA = "Use LoRA on linear layers: LoraConfig(target_modules=[...]), without use_dora."
_OWN = {"weight", "bias"}
_GROUPS = "Use GroupNorm, which normalises each record by itself."
_QUANTISED = ("bitsandbytes.", "torchao.", "torch.ao.", "gptqmodel.", "auto_gptq.", "awq.", "hqq.", "aqlm.", "eetq.")


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training moves, by the names of the model's ``state_dict``."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def check_model(model: nn.Module) -> None:
    """Return if every layer of ``model`` is known to be right under per-record clipping. Looks at no data.

    Raises:
        UnsupportedModelError: naming the layer, and what to use instead.
    """
    for name, module in model.named_modules():
        for refuses, what, remedy in _REFUSALS:
            if refuses(module):
                raise _refused(name, module, what, remedy)
        _check_adapter(name, module)
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            _check_owner(name, module)
    _check_parameters(model)


def _check_owner(name: str, module: nn.Module) -> None:
    if type(module) not in LAYERS and _path(module) not in FOREIGN:
        raise _refused(name, module, "whose per-record gradients nobody has measured", _instead(module))
    if "forward" in vars(module):
        raise _refused(name, module, "with a forward of its own", "Remove what replaced its forward.")
    if _path(module) not in _ALIASING and not {one for one, _ in module.named_parameters(recurse=False)} <= _OWN:
        raise _refused(name, module, "with parameters that its type does not have", _instead(module))
    if isinstance(module, nn.LayerNorm) and module.bias is None:
        raise _refused(name, module, "without a bias, which Opacus' rule needs", "Use bias=True, or nn.RMSNorm.")
    if getattr(module, "padding_mode", "zeros") != "zeros":
        raise _refused(name, module, "that pads otherwise than with zeros", "Use padding_mode='zeros'.")
    if getattr(module, "padding_idx", None) is not None:
        remedy = "Leave padding_idx out (mask the padding in the loss), or freeze the embedding."
        raise _refused(name, module, "whose padding row has no gradient, but has one per record", remedy)


def _check_adapter(name: str, module: nn.Module) -> None:
    if not type(module).__module__.startswith("peft."):
        return
    if _path(module) not in ADAPTERS:
        raise _refused(name, module, "an adapter that is not known to keep records apart", _LORA)
    dora = any(getattr(module, "use_dora", {}).values()) if hasattr(module, "use_dora") else False
    if dora or getattr(module, "lora_variant", None):
        raise _refused(name, module, "LoRA in a variant (DoRA, aLoRA, ...)", _LORA)


def _check_parameters(model: nn.Module) -> None:
    parameters = trained(model)
    if not parameters:
        raise UnsupportedModelError("nothing in this model is trained", remedy="Set requires_grad where it should be.")
    seen: dict[int, str] = {}
    for name, parameter in _named(model):
        first = seen.setdefault(id(parameter), name)
        if first != name:
            raise UnsupportedModelError(
                f"one trained tensor under two names, {first} and {name}",
                where=name,
                remedy="Untie the weights (tie_word_embeddings=False), or freeze them.",
            )
        if parameter.dtype != torch.float32:
            raise UnsupportedModelError(
                f"a trained tensor in {str(parameter.dtype).removeprefix('torch.')}",
                where=name,
                remedy="Train in float32; frozen parts may be narrower.",
            )


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield every trained parameter under each of its names, but for the second names that a library gives on purpose."""
    for place, module in model.named_modules(remove_duplicate=False):
        if _path(module) not in _ALIASING:
            for name, parameter in module.named_parameters(place, recurse=False):
                if parameter.requires_grad:
                    yield name, parameter


def _path(module: nn.Module) -> str:
    """The full name of the module's exact type, if it is what the library holds under that name; else nothing."""
    kind = type(module)
    holder = sys.modules.get(kind.__module__)
    return f"{kind.__module__}.{kind.__qualname__}" if getattr(holder, kind.__qualname__, None) is kind else ""


def _refused(name: str, module: nn.Module, what: str, remedy: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{type(module).__name__}: {what}", where=name or "the model", remedy=remedy)


def _instead(module: nn.Module) -> str:
    for kind in type(module).__mro__:
        if kind in LAYERS:
            return f"Use {kind.__name__} itself, not a subclass or a parametrisation of it."
    return f"Freeze it, or build it of these: {', '.join(kind.__name__ for kind in LAYERS)}, LoRA on linear layers."


def _inplace(module: nn.Module) -> bool:
    return getattr(module, "inplace", False) is True


def _statistics(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and bool(module.track_running_stats)


def _coupling_embedding(module: nn.Module) -> bool:
    if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return False
    return module.max_norm is not None or bool(module.scale_grad_by_freq) or bool(module.sparse)


def _quantised(module: nn.Module) -> bool:
    return any(f"{kind.__module__}.".startswith(_QUANTISED) for kind in type(module).__mro__)


def _checkpointing(module: nn.Module) -> bool:
    return getattr(module, "gradient_checkpointing", False) is True


def _other_dropout(module: nn.Module) -> bool:
    return isinstance(module, _DropoutNd) and type(module) is not nn.Dropout and module.p > 0


_REFUSALS: Final[tuple[tuple[Callable[[Any], bool], str, str], ...]] = (
    (lambda m: isinstance(m, _BatchNorm), "normalises over the records of a batch", _GROUPS),
    (_statistics, "keeps statistics of the records", "Use track_running_stats=False."),
    (
        lambda m: isinstance(m, nn.MultiheadAttention | nn.TransformerEncoderLayer | nn.TransformerDecoderLayer),
        "uses its weights past the hooks",
        "Use opacus.layers.DPMultiheadAttention, or attention made of nn.Linear.",
    ),
    (
        lambda m: isinstance(m, nn.RNNBase | nn.RNNCellBase) and not type(m).__module__.startswith("opacus."),
        "uses its weights past the hooks",
        "Use opacus.layers.DPLSTM, DPGRU or DPRNN.",
    ),
    (_coupling_embedding, "has max_norm, scale_grad_by_freq or sparse", "Leave all three out: they couple records."),
    (lambda m: isinstance(m, nn.EmbeddingBag), "takes bags, not records", "Use nn.Embedding and a mean."),
    (_quantised, "is quantised", "Load the model in float32 or bfloat16 and train LoRA on it."),
    (_inplace, "works in place, under the hooks", "Use inplace=False."),
    (_checkpointing, "recomputes its forward pass", "Switch gradient checkpointing off; use a smaller micro-batch."),
    (_other_dropout, "drops out otherwise than element by element", "Use nn.Dropout."),
)
