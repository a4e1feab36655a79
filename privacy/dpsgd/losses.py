"""A loss per record for sequences of tokens, as DP-SGD needs it.

Hugging Face's models return one loss for a batch, the sum over all tokens divided by their number. That number belongs to
all records: leaving one out changes the part of every other. Here each record is divided by its own.
"""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["token_losses"]


def token_losses(logits: torch.Tensor, labels: torch.Tensor, *, ignore: int = -100) -> torch.Tensor:
    """Return float32[B]: the mean cross-entropy over each record's own tokens, each predicted from those before it.

    logits: float[B, T, V]; labels: int64[B, T], where ``ignore`` marks what does not count. A record without any token that
    counts has loss 0.
    """
    scores, targets = logits[:, :-1].float(), labels[:, 1:]
    by_token = functional.cross_entropy(scores.transpose(1, 2), targets, ignore_index=ignore, reduction="none")
    return by_token.sum(dim=1) / (targets != ignore).sum(dim=1).clamp(min=1)
