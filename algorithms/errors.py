"""The errors of `algorithms`: what cannot be computed.

AlgorithmError
├── RuleError               no such rule, or parameters it does not take
├── WeightError             weights that make no weighted mean: missing, not positive, not finite
├── OrderError              updates that are not in site order, or a site twice
├── ShapeError              arrays of the wrong length or dtype, or buffers that overlap
├── PrecisionError          a dtype for which no arithmetic is specified
├── ArithmeticModeError     this thread's processor does not compute as specified (flushed subnormals, rounding)
├── NonFiniteError          a result, or an input that admission should have refused, is NaN or infinite
├── CoverageError           a stream of another length than the tensors it should hold
└── ScheduleError           a schedule that cannot be kept, or an event that cannot happen now
"""

from __future__ import annotations

from ..errors import CountersealError


class AlgorithmError(CountersealError):
    """Something that cannot be computed."""

    code = "algorithm"


class RuleError(AlgorithmError):
    """No such aggregation rule, or parameters that it does not take."""

    code = "rule"


class WeightError(AlgorithmError):
    """Weights that make no weighted mean."""

    code = "weight"


class OrderError(AlgorithmError):
    """Updates that are not in site order, or a site that is there twice."""

    code = "site_order"


class ShapeError(AlgorithmError):
    """Arrays of the wrong length or dtype, or buffers that overlap."""

    code = "shape"


class PrecisionError(AlgorithmError):
    """A dtype for which no arithmetic is specified."""

    code = "precision"


class ArithmeticModeError(AlgorithmError):
    """This thread's processor flushes subnormals to zero, or does not round to nearest even."""

    code = "arithmetic_mode"


class NonFiniteError(AlgorithmError):
    """A NaN or an infinity where only finite numbers may be."""

    code = "not_finite"


class CoverageError(AlgorithmError):
    """A stream of another length than the tensors it should hold."""

    code = "coverage"


class ScheduleError(AlgorithmError):
    """A schedule that cannot be kept, or an event that cannot happen now."""

    code = "schedule"
