"""A small LLaMA with adapters: what is right, what is refused, and that private training learns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from counterseal.privacy.dpsgd.gradients import PrivateGradients
from counterseal.privacy.dpsgd.layers import check_model, trained
from counterseal.privacy.dpsgd.losses import token_losses
from counterseal.privacy.dpsgd.selfcheck import check_records
from counterseal.privacy.errors import CoupledRecordsError, UnsupportedModelError
from counterseal.privacy.noise import Keystream


@pytest.fixture(autouse=True)
def _deprecations() -> Iterator[None]:
    """peft asks transformers for names that are about to change; that is between those two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def llama(**config: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
    return LlamaForCausalLM(LlamaConfig(**(sizes | heads | {"tie_word_embeddings": False} | config)))


def adapted(kind: str = "LoraConfig", model: Any = None, **config: Any) -> Any:
    import peft

    made = getattr(peft, kind)(task_type="CAUSAL_LM", **config)
    return peft.get_peft_model(llama() if model is None else model, made)


def lora(**config: Any) -> Any:
    values: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    return adapted(**(values | config))


def tokens(count: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 64, (count, 12), generator=torch.Generator().manual_seed(seed))


def by_record(model: nn.Module) -> Callable[..., torch.Tensor]:
    return lambda x, y: token_losses(model(input_ids=x).logits, y)


def ragged(x: torch.Tensor) -> torch.Tensor:
    """Labels in which every record has another number of tokens that count."""
    y = x.clone()
    for record in range(len(y)):
        y[record, : 2 * record] = -100
    return y


RIGHT: dict[str, Callable[[], Any]] = {
    "LoRA on q and v": lora,
    "LoRA with dropout and rank-stabilised scaling": lambda: lora(lora_dropout=0.2, use_rslora=True),
    "LoRA on every projection": lambda: lora(
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    ),
    "LoRA and the head": lambda: lora(modules_to_save=["lm_head"]),
    "LoRA on tied embeddings": lambda: lora(model=llama(tie_word_embeddings=True)),
    "all parameters": llama,
}


@pytest.mark.parametrize("name", RIGHT)
def test_gradients_of_records_are_right(name: str) -> None:
    model, x = RIGHT[name](), tokens()
    check_records(model, by_record(model), (x, ragged(x)))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "DoRA": (lambda: lora(use_dora=True), "without use_dora"),
    "LoRA on embeddings": (lambda: lora(target_modules=["embed_tokens"]), "Use LoRA on linear layers"),
    "tied embeddings, all parameters": (lambda: llama(tie_word_embeddings=True), "Untie the weights"),
    "IA3": (
        lambda: adapted("IA3Config", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        "Use LoRA on linear layers",
    ),
    "prompt tuning": (lambda: adapted("PromptTuningConfig", num_virtual_tokens=4), "Use LoRA on linear layers"),
    "prefix tuning": (lambda: adapted("PrefixTuningConfig", num_virtual_tokens=4), "Use LoRA on linear layers"),
    "LoHa": (lambda: adapted("LoHaConfig", target_modules=["q_proj"]), "Use LoRA on linear layers"),
    "trainable tokens": (lambda: lora(trainable_token_indices=[1, 2]), "Use LoRA on linear layers"),
    "gradient checkpointing": (lambda: _checkpointing(lora()), "Switch gradient checkpointing off"),
}


def _checkpointing(model: Any) -> Any:
    model.gradient_checkpointing_enable()
    return model


@pytest.mark.parametrize("name", REFUSED)
def test_other_adapters_say_what_to_use(name: str) -> None:
    build, remedy = REFUSED[name]
    with pytest.raises(UnsupportedModelError) as raised:
        check_model(build())
    assert remedy in raised.value.remedy


@pytest.mark.parametrize(
    "turn",
    [
        lambda loss, count: loss,
        lambda loss, count: loss.expand(count),
        lambda loss, count: loss * torch.arange(1.0, count + 1),
    ],
)
def test_the_library_s_own_loss_of_a_batch_is_refused(turn: Callable[..., torch.Tensor]) -> None:
    """The mean over a batch's tokens, as it is or spread over the records."""
    model, x = lora(), tokens()
    with pytest.raises(CoupledRecordsError):
        check_records(model, lambda x, y: turn(model(input_ids=x, labels=y).loss, len(x)), (x, ragged(x)))


def test_a_sum_over_the_tokens_of_the_batch_is_refused() -> None:
    """One loss per record, but divided by everybody's tokens."""

    def coupled(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        by_itself = token_losses(model(input_ids=x).logits, y)
        own = (y[:, 1:] != -100).sum(dim=1)
        return by_itself * own / own.sum()

    model, x = lora(), tokens()
    with pytest.raises(CoupledRecordsError):
        check_records(model, coupled, (x, ragged(x)))


def test_private_lora_learns_and_survives_empty_batches_and_strange_tokens() -> None:
    """Sixteen equal sentences; every fourth batch is empty, one record holds a token that there is not."""
    model = lora(lora_dropout=0.05, modules_to_save=["lm_head"])
    x = tokens(1).repeat(16, 1)
    x[7, 3] = 10**6
    good = [i for i in range(16) if i != 7]
    names, frozen = list(model.state_dict()), model.base_model.model.model.norm.weight.clone()
    optimizer = torch.optim.Adam(trained(model).values(), lr=0.03)
    before = _loss(model, x[good])
    with PrivateGradients(model, clip_norm=1.0, noise_multiplier=0.3, normaliser=16.0, micro_batch=8) as gradients:
        for number in range(12):
            batch = x[:0] if number % 4 == 3 else x
            with Keystream(number.to_bytes(32, "big")) as stream:
                gradients.step(by_record(model), (batch, batch), stream)
            optimizer.step()
    assert _loss(model, x[good]) < before - 0.5
    assert list(model.state_dict()) == names
    assert torch.equal(model.base_model.model.model.norm.weight, frozen)


def _loss(model: nn.Module, x: torch.Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return float(by_record(model)(x, x).mean())


def test_token_losses_are_those_of_single_records() -> None:
    torch.manual_seed(2)
    logits, labels = torch.randn(3, 5, 7), torch.randint(0, 7, (3, 5))
    labels[1, :3], labels[2] = -100, -100
    found = token_losses(logits, labels)
    for record in (0, 1):
        alone = nn.functional.cross_entropy(logits[record, :-1], labels[record, 1:])
        assert np.isclose(float(found[record]), float(alone), rtol=1e-6)
    assert found[2] == 0
