"""One step of training: plain, with stock Opacus (hooks, float noise of torch), and ours (grid, integer sum, cipher noise).

The same model, batch and learning rate in one run, one thread; the three take turns, so that other work on the machine hits all
alike. CPU seconds stand beside wall: ratios are those of CPU. A step of ours includes its key, rounding and noise, not the draw
of the batch.

    python benchmarks/dpsgd.py [--repeats 15]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from counterseal.privacy.dpsgd.gradients import PrivateGradients
from counterseal.privacy.dpsgd.layers import trained
from counterseal.privacy.dpsgd.losses import token_losses
from counterseal.privacy.noise import Keystream
from counterseal.runtime.training.models import cnn, mlp

Batch = tuple[torch.Tensor, ...]
Task = tuple[Callable[[], nn.Module], Callable[[nn.Module], Callable[..., torch.Tensor]], Batch]
CLIP, NOISE, RATE = 1.0, 1.0, 0.01


def entropy(model: nn.Module) -> Callable[..., torch.Tensor]:
    return lambda x, y: functional.cross_entropy(model(x), y, reduction="none")


def by_record(model: nn.Module) -> Callable[..., torch.Tensor]:
    return lambda x: token_losses(model(input_ids=x).logits, x)


def llama() -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4, "vocab_size": 1024}
    model = LlamaForCausalLM(
        LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)
    )
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "v_proj"]))


def tasks() -> dict[str, Task]:
    torch.manual_seed(0)
    x, y = torch.randn(64, 64), torch.randint(0, 10, (64,))
    tokens = torch.randint(0, 1024, (16, 64))
    return {
        "mlp 64-256-10, batch 64": (lambda: mlp(64, 10, (256,)), entropy, (x, y)),
        "cnn 8x8, batch 64": (lambda: cnn((1, 8, 8), 10), entropy, (x, y)),
        "llama 4x128, LoRA r=8, batch 16x64": (llama, by_record, (tokens,)),
    }


def plain(model: nn.Module, losses: Callable[..., torch.Tensor], batch: Batch) -> Callable[[], None]:
    optimizer = torch.optim.SGD(trained(model).values(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        losses(*batch).mean().backward()
        optimizer.step()

    return step


def stock(model: nn.Module, losses: Callable[..., torch.Tensor], batch: Batch) -> Callable[[], None]:
    from opacus.grad_sample import GradSampleHooks
    from opacus.optimizers import DPOptimizer

    GradSampleHooks(model, loss_reduction="mean")
    optimizer = DPOptimizer(
        torch.optim.SGD(trained(model).values(), lr=RATE),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        expected_batch_size=len(batch[0]),
    )

    def step() -> None:
        optimizer.zero_grad()
        losses(*batch).mean().backward()
        optimizer.step()

    return step


def ours(micro: int) -> Callable[..., Callable[[], None]]:
    def make(model: nn.Module, losses: Callable[..., torch.Tensor], batch: Batch) -> Callable[[], None]:
        optimizer = torch.optim.SGD(trained(model).values(), lr=RATE)
        private = PrivateGradients(
            model, clip_norm=CLIP, noise_multiplier=NOISE, normaliser=float(len(batch[0])), micro_batch=micro
        )

        def step() -> None:
            with Keystream() as stream:
                private.step(losses, batch, stream)
            optimizer.step()

        return step

    return make


def measure(task: Task, repeats: int) -> dict[str, tuple[float, float]]:
    """Return the median CPU and wall seconds of a step, by way of training."""
    build, losses_of, batch = task
    size = len(batch[0])
    ways = {"plain": plain, "opacus": stock, "ours": ours(size), "ours, micro 8": ours(8), "ours, micro 1": ours(1)}
    steps, times = {}, {name: [] for name in ways}  # type: ignore[var-annotated]
    for name, way in ways.items():
        model = build().train()
        steps[name] = way(model, losses_of(model), batch)
        steps[name]()
    for _ in range(repeats):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(3):
                step()
            times[name].append(((time.process_time() - cpu) / 3, (time.perf_counter() - wall) / 3))
    return {
        name: (statistics.median(a for a, _ in found), statistics.median(b for _, b in found))
        for name, found in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    print(f"{'':50}{'way':15}{'CPU ms':>9}{'wall ms':>9}{'/ plain':>9}{'/ opacus':>10}")
    for name, task in tasks().items():
        count = sum(one.numel() for one in trained(task[0]()).values())
        found = measure(task, repeats)
        label = f"{name}, d={count}"
        for way, (cpu, wall) in found.items():
            ratios = f"{cpu / found['plain'][0]:9.2f}{cpu / found['opacus'][0]:10.2f}"
            print(f"{label if way == 'plain' else '':50}{way:15}{cpu * 1e3:9.2f}{wall * 1e3:9.2f}{ratios}")


if __name__ == "__main__":
    main()
