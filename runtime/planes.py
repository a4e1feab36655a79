"""The tensors of what travels and of what is kept beside a model, by plane.

An update of a rule that reads one plane has the floating tensors of the model under their own names. With several planes every
tensor is there once for each, as ``<plane>/<name>``, in the dtype of the model. What a rule keeps for a member is one
blob a plane, in float32, under the same names: so the schema's digest, which a blob is bound to, says which plane it holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..parameters import Schema, TensorSpec

__all__ = ["plane_bytes", "row_schema", "update_schema"]


def update_schema(planes: Sequence[str], schema: Schema) -> Schema:
    """Return the schema of an update of a model of ``schema`` to a rule that reads ``planes``."""
    floats = schema.floats()
    if len(planes) == 1:
        return floats
    specs = [TensorSpec(f"{plane}/{spec.name}", spec.dtype, spec.shape) for plane in planes for spec in floats.tensors]
    return Schema(tuple(sorted(specs, key=lambda spec: spec.name)))


def row_schema(plane: str, schema: Schema) -> Schema:
    """Return the schema of one plane that is kept for a member, of a model of ``schema``."""
    return Schema(tuple(TensorSpec(f"{plane}/{spec.name}", "F32", spec.shape) for spec in schema.floats().tensors))


def plane_bytes(planes: Sequence[str], plane: str, schema: Schema) -> tuple[int, int]:
    """Return the first byte and the end of ``plane`` among the tensor bytes of an update to a rule that reads ``planes``.

    The tensors of a plane stand together: names are sorted, and all of a plane begin alike.
    """
    length = schema.floats().data_bytes
    first = sorted(planes).index(plane) * length
    return first, first + length
