"""The device that training would choose."""

from __future__ import annotations

from .doctor_check import Doubt

__all__ = ["described"]


def described(device: str | None) -> str:
    """Choose the device as training would, and describe it."""
    try:
        from ..training.device import choose_device, describe_device
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise Doubt("torch is not installed: only the numpy-linear trainer runs here") from None
    return describe_device(choose_device(device or "auto"))
