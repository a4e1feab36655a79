"""What leaves a site beside or instead of an exact update: output perturbation, and noisy counts.

Under ``dp-sgd`` the trained parameters are already private: nothing here touches them. Under an output mechanism whatever
training did is clipped around a centre that everybody can compute from released values, and noised (`privacy.output`); the
result keeps the parameters' names, shapes and dtypes.

Not handled here: leave to release at all (`steward`), the accounting (`privacy.accounting`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ...algorithms.arithmetic import narrow, widen
from ...parameters import Schema
from ...trust.terms import PrivacyTerms
from ..errors import TrainingFailedError
from ..training.seam import Array, Trainer

__all__ = ["counted", "released"]

Float32 = npt.NDArray[np.float32]


def released(
    terms: PrivacyTerms | None,
    schema: Schema,
    after: Mapping[str, Array],
    before: Mapping[str, Array],
    centre: Callable[[Float32], Float32] = lambda parent: parent,
) -> Mapping[str, Array]:
    """Return the parameters that may leave: ``after`` itself, or clipped and noised around ``centre`` of ``before``.

    schema: the floating tensors. ``centre`` maps the flat parent, float32[d], to the flat centre, float32[d].
    """
    if terms is None or terms.mechanism == "dp-sgd":
        return after
    from ...privacy.noise.keystream import Keystream
    from ...privacy.output import release

    middle = centre(_flat(schema, before))
    with Keystream() as stream:
        step = release(
            _flat(schema, after),
            middle,
            kind="laplace" if terms.mechanism == "output-laplace" else "gaussian",
            clip_norm=terms.clip_norm,
            noise_multiplier=terms.noise_multiplier,
            stream=stream,
        )
    return _shaped(schema, middle + step)


def counted(trainer: Trainer, parameters: Mapping[str, Array], noise_multiplier: float) -> dict[str, int]:
    """Return how many held-out records there are and how many are classified right, both with noise.

    One record changes each count by at most 1, so the L1 sensitivity is 2: a private trainer counts every record by itself, so
    that no record can make the whole fail. What fails all the same (no data) counts nothing.
    """
    from ...privacy.counts import noisy_counts
    from ...privacy.noise.keystream import Keystream

    try:
        examples, right = trainer.count_right(parameters)
    except TrainingFailedError:
        examples, right = 0, 0
    with Keystream() as stream:
        found = noisy_counts(
            {"examples": examples, "right": right}, contribution=2, noise_multiplier=noise_multiplier, stream=stream
        )
    return dict(found)


def _flat(schema: Schema, values: Mapping[str, Array]) -> Float32:
    out = np.empty(sum(spec.size for spec in schema.tensors), np.float32)
    start = 0
    for spec in schema.tensors:
        widen(np.ascontiguousarray(values[spec.name]).reshape(-1), spec.dtype, out[start : start + spec.size])
        start += spec.size
    return out


def _shaped(schema: Schema, flat: Float32) -> dict[str, Array]:
    found: dict[str, Array] = {}
    start = 0
    for spec in schema.tensors:
        part = np.array(flat[start : start + spec.size])
        stored = part if spec.dtype == "F32" else np.empty(spec.size, spec.numpy_dtype)
        if spec.dtype != "F32":
            narrow(part, spec.dtype, stored)
        found[spec.name] = stored.reshape(spec.shape)
        start += spec.size
    return found
