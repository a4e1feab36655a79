"""`EndpointDaemon`: a real ``globus-compute-endpoint`` from .venv-endpoint, against the stand-in cloud."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from .reach import as_user, reaches, uncovered

if TYPE_CHECKING:
    from .world import StandIn

__all__ = ["NOBODY", "ROOT", "EndpointDaemon", "endpoint_python", "find_endpoint_program"]

NOBODY = 65_534
ROOT = 0
_PROGRAMS = Path(__file__).parents[2] / ".venv-endpoint" / "bin"
_START = 120.0
_STOP = 15.0  # the daemon gives its user endpoints 10 s
# Waits for the end of its input, which is our end, then ends the daemon's whole session if it is still that daemon.
_WATCHDOG = (
    'cat >/dev/null; grep -qi globus "/proc/$1/cmdline" 2>/dev/null || exit 0; '
    'kill -TERM "$1"; sleep 12; grep -qi globus "/proc/$1/cmdline" 2>/dev/null && kill -KILL -- "-$1"; exit 0'
)


def find_endpoint_program() -> Path:
    """Return the endpoint daemon's program in its environment of its own (`make .venv-endpoint/.installed`)."""
    program = Path(os.environ.get("COUNTERSEAL_ENDPOINT_BIN", _PROGRAMS)) / "globus-compute-endpoint"
    if not program.exists():
        raise RuntimeError(f"{program} is missing: make .venv-endpoint/.installed")
    return program


def endpoint_python() -> Path:
    """Return the Python of the daemon's environment."""
    return find_endpoint_program().with_name("python")


class EndpointDaemon:
    """The daemon for the endpoint whose files are in ``folder/name``; ``folder`` is its GLOBUS_COMPUTE_USER_DIR.

    It logs in as the service account ``client``. Started by root it runs as ``user``, without one as nobody if nobody can
    reach the interpreter and the folder; `ROOT` keeps it root, which makes it a multi-user endpoint. Everything below
    ``folder`` is given to that user. ``environment`` is added to the daemon's own.
    """

    def __init__(
        self,
        standin: StandIn,
        folder: Path,
        name: str,
        client: tuple[str, str],
        user: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.name = name
        self.uuid = ""
        self._standin = standin
        self._client = client
        self._program = find_endpoint_program()
        self._before = uncovered([endpoint_python(), self._program])
        self.user = _choose_user(user, self._before, self._program, folder)
        self._more = environment or {}
        self._core: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._users: dict[int, psutil.Process] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @staticmethod
    def programs() -> Path:
        """Return the folder of the daemon's programs."""
        return find_endpoint_program().parent

    # Life ----------------------------------------------------------------------------------------------------------

    def start(self, patience: float = _START) -> str:
        """Start the daemon, wait for its first sign of life, and return the endpoint's UUID."""
        _give(self.folder, self.user)
        started = time.time()
        with self._output().open("ab") as log:
            self._core = subprocess.Popen(
                [*self._before, *as_user(self.user), str(self._program), "start", self.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment(),
                start_new_session=True,  # at its end the daemon signals its whole process group
            )
        self._watch(self._core.pid)
        try:
            _wait(lambda: self._is_online(started), patience, self._complaint)
        except BaseException:
            self.stop()
            raise
        return self.uuid

    def _complaint(self) -> str:
        return f"the endpoint {self.name} did not start:\n{self.log()[-3000:]}"

    def _is_online(self, since: float) -> bool:
        if self._core is None or self._core.poll() is not None:
            raise RuntimeError(self._complaint())
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            self.uuid = json.loads((self.folder / self.name / "endpoint.json").read_text())["endpoint_id"]
        seen = self._standin.control.last_seen(self.uuid)
        return seen is not None and seen >= since

    def stop(self) -> None:
        """End the daemon in order, and whatever is left of it."""
        core, self._core = self._core, None
        self._remember(core)
        if core is not None:
            core.terminate()
            try:
                core.wait(_STOP)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(core.pid, signal.SIGKILL)
                core.wait()
        self._end_users()
        self._end_watchdog()

    def kill(self) -> None:
        """End the daemon and everything that it started at once, as a power failure does."""
        core, self._core = self._core, None
        self._remember(core)
        if core is not None:
            core.kill()
            core.wait()
        self._end_users()
        self._end_watchdog()

    @property
    def pid(self) -> int | None:
        """The core daemon's process, while it runs."""
        return None if self._core is None else self._core.pid

    # User endpoints ------------------------------------------------------------------------------------------------

    def user_endpoints(self) -> list[int]:
        """Return the processes of the user endpoints that are alive: children that lead sessions of their own."""
        self._remember(self._core)
        return [pid for pid, process in self._users.items() if _is_alive(process)]

    def kill_user_endpoint(self, number: signal.Signals = signal.SIGKILL, *, noticed: bool = True) -> int:
        """Send a signal to all user endpoints, and return how many there were.

        After SIGKILL a new one refuses to start for three heartbeats: `forgive` shortens that. ``noticed`` waits until the
        core daemon knows of the death (up to a second): a task submitted before that starts no new user endpoint, for the
        core believes that the old one still runs, and stays where it is until the next submission.
        """
        found = [self._users[pid] for pid in self.user_endpoints()]
        for process in found:
            process.send_signal(number)
        if noticed:
            _, left = psutil.wait_procs(found, timeout=_STOP)
            if left:
                raise RuntimeError(f"user endpoints outlive signal {number}: {left}")
        return len(found)

    def forgive(self) -> None:
        """Remove what killed daemons left, so that new ones start at once instead of after three heartbeats."""
        alive = {str(pid) for pid in (self.pid, *self.user_endpoints())}
        for left in self.folder.rglob("daemon.pid"):
            if left.read_text().strip() not in alive:
                left.unlink(missing_ok=True)

    def log(self) -> str:
        """Return what the daemon and its user endpoints wrote."""
        paths = [self._output(), self.folder / self.name / "endpoint.log", *self.folder.rglob("uep.*/endpoint.log")]
        return "\n".join(f"== {each}\n{each.read_text(errors='replace')}" for each in paths if each.exists())

    # Parts ---------------------------------------------------------------------------------------------------------

    def _output(self) -> Path:
        return self.folder / f"{self.name}.out"

    def _environment(self) -> dict[str, str]:
        """The daemon's own environment; nothing of ours is in it."""
        return {
            "PATH": f"{self._program.parent}:{os.defpath}",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "HTTP_PROXY": self._standin.url,  # "local" means http://localhost:5000 to the SDK; this is how it gets to ours
            "GLOBUS_SDK_ENVIRONMENT": "local",
            "GLOBUS_SDK_SERVICE_URL_AUTH": f"{self._standin.url}/auth",
            "GLOBUS_SDK_SERVICE_URL_GROUPS": f"{self._standin.url}/groups",
            "GLOBUS_COMPUTE_CLIENT_ID": self._client[0],
            "GLOBUS_COMPUTE_CLIENT_SECRET": self._client[1],
            "GLOBUS_COMPUTE_USER_DIR": str(self.folder),
            **self._more,
        }

    def _remember(self, core: subprocess.Popen[bytes] | None) -> None:
        if core is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(core.pid).children():
                if _leads_session(child.pid):
                    self._users[child.pid] = child

    def _end_users(self) -> None:
        """Kill what user endpoints are left, with their sessions: workers, and what tasks started."""
        leaders = {pid for pid, process in self._users.items()}
        left = [process for process in psutil.process_iter() if _session(process.pid) in leaders]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)
        self._users.clear()

    def _watch(self, pid: int) -> None:
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _end_watchdog(self) -> None:
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.kill()
            watchdog.wait()
            if watchdog.stdin is not None:
                watchdog.stdin.close()


def _choose_user(user: int | None, before: list[str], program: Path, folder: Path) -> int:
    """Return who the daemon runs as: only root has a choice."""
    if os.geteuid() != 0:
        return os.geteuid()
    if user is not None:
        return user
    places = (program, program.with_name("python").resolve(), folder)
    return NOBODY if all(reaches(NOBODY, each, before) for each in places) else ROOT


def _give(folder: Path, user: int) -> None:
    """Give everything in ``folder`` to ``user``."""
    if user == os.geteuid():
        return
    group = pwd.getpwuid(user).pw_gid
    for place in (folder, *folder.rglob("*")):
        if not place.is_symlink():
            shutil.chown(place, user, group)


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def _leads_session(pid: int) -> bool:
    return _session(pid) == pid


def _wait(done: Callable[[], bool], patience: float, complaint: Callable[[], str]) -> None:
    deadline = time.monotonic() + patience
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError(complaint())
        time.sleep(0.1)
