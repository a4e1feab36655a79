"""`Kit`: every choice that an endpoint's folder is written from; the folder carries it, so that the doctor can write it again.

A kit is data of the site's own administrator. Nothing in it comes from a server, and nothing in it may be a variable that a
server fills: the files are a function of this value alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from ...trust.documents import Model
from ...trust.identifiers import Uuid
from .quoting import AbsolutePath, EnvironmentName, NarrowPath, PlainName, UserName, is_narrow

__all__ = ["Batch", "Kit", "MultiUser", "Pod", "Profile"]

Profile = Literal["laptop", "ec2", "slurm", "pbs", "kubernetes"]
"""Where the work is done."""

_SECRET = ("LD_PRELOAD", "LD_AUDIT", "PYTHON", "GLOBUS_", "SUDO_", "COUNTERSEAL_", "BASH_ENV", "ENV")
_OF_ANOTHER = ("LD_", "PATH", "OPENSSL_", "GCONV_PATH", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_")
"""Besides, where the account that a server's code runs as would set them for another: code, and whose word is taken."""

_Lines = Annotated[str, StringConstraints(pattern=r"^([ -~]{0,500}\n?){0,40}$", max_length=4_000)]
"""Lines of the administrator's own: printable ASCII."""

_Count = Annotated[int, Field(ge=1, le=10_000)]


class Batch(Model):
    """What a batch scheduler is asked for."""

    partition: PlainName | None = None
    """Slurm's partition, or the queue of PBS."""
    account: PlainName | None = None
    qos: PlainName | None = None
    constraint: PlainName | None = None
    walltime: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,4}:[0-5][0-9]:[0-5][0-9]$")] = "04:00:00"
    """Hours, minutes, seconds of one job; the training of a round must fit."""
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    cores: _Count | None = None
    memory: _Count | None = None
    """Gigabytes."""
    exclusive: bool = False
    scheduler_options: _Lines = ""
    """Whole lines for the head of the job script, each beginning with `#SBATCH` or `#PBS`."""
    interface: PlainName | None = None
    """The network interface on which the compute nodes reach this machine."""
    idle_seconds: Annotated[int, Field(ge=10, le=86_400)] = 300
    """How long a job without work is kept; after that it is given back."""


class Pod(Model):
    """The one pod that is the endpoint."""

    image: PlainName
    """An image with this package and the daemon."""
    claim: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    """The persistent volume claim on which configuration, keys, state and this folder lie."""
    mount: NarrowPath
    """Where the claim is mounted."""
    namespace: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] = "default"
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    memory: _Count = 8
    """Gigabytes."""
    cores: _Count = 2
    uid: Annotated[int, Field(ge=1, le=2**31 - 2)] = 65532


class MultiUser(Model):
    """The daemon runs as root, and the server's identity is mapped to one local account."""

    server: Uuid
    """The Globus identity of the server, as the charter names it."""
    user: UserName
    """The local account under which what the server sends is run; never root."""
    email: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,190}$")]
    """Whom Globus may write to: the daemon demands it."""
    work: NarrowPath | None = None
    """Where that account's processes keep their files; by default below its home."""

    @model_validator(mode="after")
    def _unprivileged(self) -> MultiUser:
        if self.user == "root":
            raise ValueError("map the server to an account of its own, never to root")
        return self


class Kit(Model):
    """All choices of one endpoint."""

    format: Literal["counterseal-endpoint/1"] = "counterseal-endpoint/1"
    profile: Profile
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$")]
    """The name that Globus shows."""
    folder: NarrowPath
    """The folder of the endpoint: its last part is the endpoint's name at the daemon."""
    config: AbsolutePath
    """The site's configuration."""
    function: Uuid
    """The one function that may be called."""
    program: AbsolutePath
    """The installed `counterseal`."""
    daemon: NarrowPath
    """The installed `globus-compute-endpoint`."""
    user: UserName
    """The account under which the daemon runs."""
    search: tuple[NarrowPath, ...] = ()
    """Folders besides the usual ones in which the daemon finds the scheduler's commands."""
    run_as: UserName | None = None
    """The account that owns the site's keys, data and state, if it is not the one that runs what the server sends."""
    multi_user: MultiUser | None = None
    authentication_policy: Uuid | None = None
    client: Uuid | None = None
    """The service account with which the daemon logs in, where it is known."""
    keep: tuple[EnvironmentName, ...] = ()
    """Environment variables of the worker that the site's program gets besides the usual ones."""
    worker_init: _Lines = ""
    """Shell lines of the administrator's own before a worker starts, such as `module load`."""
    batch: Batch | None = None
    pod: Pod | None = None
    test_cloud: Annotated[str, StringConstraints(pattern=r"^http://(127\.0\.0\.1|localhost):[0-9]{2,5}$")] | None = None
    """Tests only: the stand-in that the site's configuration names."""

    @property
    def runner(self) -> str:
        """The account under which what the server sends is run."""
        return self.user if self.multi_user is None else self.multi_user.user

    @property
    def site_user(self) -> str:
        """The account under which the site's program runs."""
        return self.run_as or self.runner

    @property
    def launcher(self) -> str:
        """The program that the one function starts."""
        return f"{self.folder}/deliver"

    @property
    def path(self) -> str:
        """Where the daemon and its workers find programs."""
        return ":".join((self.daemon.rpartition("/")[0], *self.search, "/usr/local/bin", "/usr/bin", "/bin"))

    @model_validator(mode="after")
    def _profile(self) -> Kit:
        if (self.batch is not None) != (self.profile in {"slurm", "pbs"}):
            raise ValueError("options of a batch scheduler belong to the profiles slurm and pbs")
        if (self.pod is not None) != (self.profile == "kubernetes"):
            raise ValueError("the profile kubernetes, and no other, needs an image and a claim")
        if self.pod is not None and (self.run_as or self.multi_user):
            raise ValueError("in a pod nothing gains rights: neither run-as nor multi-user can work there")
        if self.pod is not None and not all(
            path.startswith(f"{self.pod.mount}/") for path in (self.folder, self.config)
        ):
            raise ValueError("the pod sees its mount only: folder and config must lie below it")
        if self.batch is not None:
            word = "#SBATCH" if self.profile == "slurm" else "#PBS"
            if any(not line.startswith(f"{word} ") for line in self.batch.scheduler_options.splitlines()):
                raise ValueError(f"scheduler-options: each line must begin with {word}")
        return self

    @model_validator(mode="after")
    def _accounts(self) -> Kit:
        if self.multi_user is None and self.user == "root" and self.pod is None:
            raise ValueError("what the server sends would run as root: name another user, or use multi-user")
        if self.multi_user is not None and self.user != "root":
            raise ValueError("multi-user: only a daemon of root can become another user")
        if self.run_as in {self.runner, "root"}:
            raise ValueError(
                "run-as must name an account of the site's own, other than the one that the server reaches"
            )
        if self.run_as and not all(is_narrow(path) for path in (self.program, self.config)):
            raise ValueError("run-as: sudoers takes wildcards for what they are; config and program need plain paths")
        return self

    @model_validator(mode="after")
    def _variables(self) -> Kit:
        refused = (*_SECRET, *_OF_ANOTHER) if self.run_as else _SECRET
        for name in self.keep:
            if any(name.startswith(one) for one in refused if one != "ENV") or name == "ENV":
                raise ValueError(f"keep: {name} decides which code runs, or belongs to the daemon")
        return self
