"""The errors of `runtime`: how it runs.

RuntimeFault
├── ConfigError             a configuration file that does not say what it must
└── TrainingError           a trainer, model, loss or metric that cannot be built; no data was touched
    ├── TrainingFailedError training failed after data was touched: the one code `site_failed`
    └── PluginError         a plug-in that is missing, not approved, or not what was approved
"""

from __future__ import annotations

from ..errors import CountersealError


class RuntimeFault(CountersealError):
    """A matter of how counterseal runs."""

    code = "runtime"


class ConfigError(RuntimeFault):
    """A configuration file that does not say what it must; every problem names its file and line."""

    code = "config"


class TrainingError(RuntimeFault):
    """A trainer, model, loss or metric that cannot be built or given these parameters; no data was touched."""

    code = "training"


class TrainingFailedError(TrainingError):
    """Training or evaluation failed after data was touched: the one code that says nothing about the data."""

    code = "site_failed"


class PluginError(TrainingError):
    """A plug-in that is missing, not approved, or not what was approved."""

    code = "plugin"
