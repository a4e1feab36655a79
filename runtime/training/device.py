"""The device a trainer uses, and the numerical surroundings in which two trainings are equal.

`numerics` puts everything back that it changes: the random state of the process, the number of threads, the
determinism switches. On the CPU one thread and deterministic kernels give the same bytes twice. On CUDA the same
holds for one kind of GPU and one version of its libraries; a kernel without a deterministic form raises.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import TrainingError

__all__ = ["choose_device", "describe_device", "numerics"]


def choose_device(name: str) -> torch.device:
    """Return the device that ``name`` (`auto`, `cpu`, `cuda`, `cuda:N`) means here.

    Raises:
        TrainingError: it is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda:0" if count else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number or "0").isdecimal():
        raise TrainingError(f"no device {name!r}", remedy="Known: auto, cpu, cuda, cuda:N.")
    if int(number or 0) >= count:
        raise TrainingError(f"there is no device {name!r} here", remedy=f"This machine has {count} CUDA devices.")
    # cuBLAS is deterministic only with a workspace fixed before its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # cuBLAS is deterministic only with a fixed workspace, read when CUDA starts; without it torch refuses its kernels
    # (NVIDIA, cuBLAS documentation, "Results reproducibility").
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device("cuda", int(number or 0))


def describe_device(device: torch.device) -> str:
    """Return the device as it is reported: ``cpu``, ``cuda:0 (name)``."""
    return "cpu" if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})"


@contextmanager
def numerics(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch and make it deterministic inside the block; leave no trace behind it."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    devices = [] if device.type == "cpu" else [device.index]
    with torch.random.fork_rng(devices=devices):
        try:
            torch.set_num_threads(1)
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            torch.manual_seed(seed)
            yield
        finally:
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            torch.set_num_threads(threads)
