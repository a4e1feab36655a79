"""Every target by its name."""

from __future__ import annotations

from . import (
    audit_targets,
    compute_targets,
    endpoint_targets,
    privacy_targets,
    runtime_targets,
    site_target,
    trust_targets,
)
from .target import Target

__all__ = ["TARGETS"]

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (
        trust_targets,
        audit_targets,
        privacy_targets,
        runtime_targets,
        compute_targets,
        endpoint_targets,
        site_target,
    )
    for target in module.TARGETS
}
