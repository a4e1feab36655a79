"""Whose cloud: Globus' own, or the stand-in that a configuration names in so many words.

The Globus SDK takes its addresses from environment variables when asked to. A process that starts with the wrong
environment would send its credentials to another host, and believe that host's list of members. So no process of ours
runs with such a variable, test or not; the one way to a stand-in is `insecure_test_cloud`, and it ends on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from ..config.globus import GlobusConfig
from ..errors import GlobusSetupError, TestCloudError

__all__ = ["Service", "require_extra", "require_real_cloud", "service_url"]

Service: TypeAlias = Literal["auth", "groups", "compute"]

_PATHS: dict[str, str] = {"auth": "/auth", "groups": "/groups", "compute": ""}
_TRUE = frozenset({"1", "y", "yes", "t", "true", "on"})
_ELSEWHERE = "GLOBUS_SDK_SERVICE_URL_"
_OTHER_LOGINS = ("GLOBUS_COMPUTE_CLIENT_ID", "GLOBUS_COMPUTE_CLIENT_SECRET", "FUNCX_SDK_CLIENT_ID", "FUNCX_SCOPE")


def require_real_cloud(config: GlobusConfig, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse an environment that leads the Globus SDK to another cloud, or past the check of certificates.

    Raises:
        TestCloudError: names the variable, never its value.
    """
    for name, value in sorted(environ.items()):
        if _misleads(name, value):
            raise TestCloudError(
                f"the environment variable {name} leads away from Globus", remedy=f"Start without it: unset {name}."
            )
    if config.insecure_test_cloud is not None and not _on_this_machine(config.insecure_test_cloud):
        raise TestCloudError("a stand-in for Globus must be on this machine", where="globus.insecure_test_cloud")


def _misleads(name: str, value: str) -> bool:
    if name == "GLOBUS_SDK_ENVIRONMENT":
        return value != "production"
    if name == "GLOBUS_SDK_VERIFY_SSL":
        # A file of certificates counts as well: whoever made it reads every token.
        return value.lower() not in _TRUE
    return name.startswith(_ELSEWHERE) or name in _OTHER_LOGINS


def _on_this_machine(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in {"127.0.0.1", "localhost"} and parts.username is None


def service_url(config: GlobusConfig, service: Service) -> str | None:
    """Return where the stand-in serves ``service``, or None for Globus' own address."""
    if config.insecure_test_cloud is None:
        return None
    return config.insecure_test_cloud + _PATHS[service]


def require_extra(module: str = "globus_sdk") -> None:
    """Refuse to go on where the extra is missing.

    Raises:
        GlobusSetupError: ``module`` is not installed.
    """
    if find_spec(module) is None:
        raise GlobusSetupError(f"{module} is not installed", remedy="Run: pip install 'counterseal[globus]'")
