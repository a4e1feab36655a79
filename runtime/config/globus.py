"""`GlobusConfig` and `ComputeTransportConfig`: how a party speaks to Globus, and how a server reaches sites through it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from ...trust.identifiers import Identity, Uuid
from .parts import Config, ConfigPath, PassphraseConfig

__all__ = ["ComputeTransportConfig", "GlobusConfig", "GlobusFileConfig", "Uuid"]


class GlobusConfig(Config):
    """One party's way to Globus: a service account with a secret, or a person's login with kept tokens."""

    client_id: Uuid
    """The application registered with Globus: a service account, or the native application that people log in with."""
    client_secret: PassphraseConfig | None = None
    """Where the service account's secret is found; without it a person logs in."""
    tokens: ConfigPath | None = None
    """The file (mode 0600) in which the tokens of a person's login are kept; `counterseal login` fills it."""
    server_client: Uuid | None = None
    """Sites only: the server's application, for which the token of an enrolment is made."""
    clients: Annotated[tuple[Uuid, ...], Field(max_length=100)] = ()
    """Servers only: the applications that members log in with; a token that another one obtained enrols nobody."""
    auditors: Uuid | None = None
    """The subgroup whose members are auditors."""
    insecure_test_cloud: (
        Annotated[str, StringConstraints(pattern=r"^http://(127\.0\.0\.1|localhost):[0-9]{2,5}$")] | None
    ) = None
    """Tests only: a stand-in for Globus on this machine. Nothing that it says is worth anything."""

    @model_validator(mode="after")
    def _one_way(self) -> GlobusConfig:
        if (self.client_secret is None) == (self.tokens is None):
            raise ValueError("name exactly one of client_secret (a service account), tokens (a person's login)")
        return self


class GlobusFileConfig(Config):
    """A file that names a way to Globus and nothing else, for what comes before there is a federation."""

    globus: GlobusConfig
    """How this party speaks to Globus."""


class ComputeTransportConfig(Config):
    """Sites behind Globus Compute endpoints."""

    kind: Literal["globus-compute"]
    function: Uuid
    """The registered function that hands a delivery to a site (`counterseal server function`)."""
    endpoints: Annotated[dict[Identity, Uuid], Field(max_length=1_000)]
    """Each site's identity, and its endpoint, as `counterseal server admit` prints it; empty before anybody is admitted."""
    poll_seconds: Annotated[float, Field(ge=0.2, le=60)] = 1.0
    """Seconds between two questions for results; they grow while nothing comes."""
    resend_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    """Seconds of silence after which a delivery is sent once more: a task that its endpoint lost is never reported."""
