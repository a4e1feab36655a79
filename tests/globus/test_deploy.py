"""docs/deploy.md, carried out: every block of it is pasted into shells, one for the server and one for each of three sites.

Each party has a home of its own; the sites run as nobody when we are root. What people do by mail and telephone, the test
does: it copies the files that the page says are sent, and tells numbers from one shell to another. The values that the page asks
for are replaced, name for name; every configuration that a block wrote gets the one line that leads to the stand-in.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from counterseal.runtime.demo.surroundings import private_s3
from counterseal.tests.standin.daemon import NOBODY, find_endpoint_program
from counterseal.tests.standin.reach import as_user, uncovered
from counterseal.tests.standin.slurm import write_slurm
from counterseal.tests.standin.world import StandIn

pytestmark = pytest.mark.processes

PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"
PROFILES = ("slurm --partition gpu --walltime 04:00:00 --interface lo", "ec2", "laptop")
_STEP = re.compile(r"^```sh (?P<words>[a-z -]+)\n(?P<code>.*?)^```$|^<!-- mail: (?P<mail>.*?) -->$", re.M | re.S)
_END = "--- end of block ---"


@dataclass(frozen=True)
class Step:
    """A block for somebody's shell, or something that is sent."""

    role: str
    words: tuple[str, ...]
    text: str


def steps() -> list[Step]:
    found = []
    for match in _STEP.finditer(PAGE.read_text()):
        if match["mail"] is not None:
            found.append(Step("mail", (), match["mail"]))
        else:
            role, *words = match["words"].split()
            found.append(Step(role, tuple(words), match["code"]))
    return found


class Shell:
    """One person's shell, at home."""

    def __init__(self, name: str, home: Path, user: int, cloud: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self._cloud = cloud
        self.home = home
        self.user = user
        before = uncovered([Path(sys.executable), find_endpoint_program().with_name("python")])
        self._process = subprocess.Popen(
            [*before, *as_user(user), "bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=home,
            env={"HOME": str(home), "PATH": os.defpath, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", **environment},
            start_new_session=True,
        )
        self.run("set -m -o pipefail")  # a background job leads a group of its own, as in anybody's terminal

    def run(self, code: str) -> str:
        """Paste ``code``, line by line as a person would; fail at the first that does."""
        assert self._process.stdin is not None and self._process.stdout is not None
        script = self.home / "pasted.sh"
        script.write_text(code)
        os.chown(script, self.user, -1)
        # `.` keeps variables and folder for the next block; `set -e` in a function would be ignored under `||`.
        self._process.stdin.write(f"set -e; . {script}; set +e; echo '{_END}' ok\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.startswith(_END):
                self._adapt()
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"{self.name} stopped in\n{code}\n{''.join(lines)[-6000:]}")

    def variables(self, **values: str) -> None:
        self.run("".join(f"export {name}={_quoted(value)}\n" for name, value in values.items()))

    def value(self, name: str) -> str:
        return self.run(f'printf "%s\\n" "${name}"').strip()

    def _adapt(self) -> None:
        """Lead every configuration of this party to the stand-in and the private store."""
        for path in (self.home / "federation").glob("*.yaml"):
            text = path.read_text()
            new = text
            if "client_secret:" in text and "insecure_test_cloud" not in text:
                new = re.sub(r"(  client_secret: .*\n)", rf"\1  insecure_test_cloud: {self._cloud}\n", new)
            if "kind: s3" in text and "insecure_loopback" not in text:
                new = new.replace("{kind: s3,", "{kind: s3, insecure_loopback: true,")
            if new != text:
                path.write_text(new)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


@dataclass
class Cast:
    """Who takes part."""

    standin: StandIn
    base: Path
    server: Shell
    sites: list[Shell]
    accounts: dict[str, tuple[str, str]]
    values: dict[str, str]

    def of(self, role: str) -> list[Shell]:
        return [self.server] if role == "server" else self.sites

    def send(self, text: str) -> None:
        """Carry out ``from FILES -> to PLACE``."""
        left, _, right = text.partition(" -> ")
        (sender, pattern), (receiver, place) = left.split(" ", 1), right.split(" ", 1)
        for one in self.of(sender):
            found = sorted((one.home / "federation").glob(pattern))
            assert found, f"{one.name} has no {pattern} to send"
            for path in found:
                for other in self.of(receiver):
                    self._hand(path, other, other.home / "federation" / place, into_folder=sender == "site")

    @staticmethod
    def _hand(path: Path, other: Shell, target: Path, *, into_folder: bool) -> None:
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            if into_folder:
                target.mkdir(exist_ok=True)
                target /= path.name
            shutil.copy(path, target)
        if os.geteuid() == 0:
            for each in (target, target.parent, *(target.rglob("*") if target.is_dir() else ())):
                os.chown(each, other.user, -1)


@pytest.fixture
def cast() -> Iterator[Cast]:
    base = Path(tempfile.mkdtemp(prefix="counterseal-deploy-"))
    base.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        _, store, _ = stack.enter_context(private_s3(base / "s3"))
        standin = stack.enter_context(StandIn(base / "standin"))
        stack.callback(_end_all, base)
        accounts = {name: standin.control.client(name) for name in ("server", "hospital-a", "hospital-b", "lab-c")}
        standin.control.scope(accounts["server"][0], "enrol")
        user = NOBODY if os.geteuid() == 0 else os.geteuid()
        keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        server = _shell(stack, base, "server", os.geteuid(), standin.url, keys)
        sites = [_shell(stack, base, name, user, standin.url, {}) for name in ("hospital-a", "hospital-b", "lab-c")]
        values = {"BUCKET": store.bucket, "REGION": "us-east-1", "S3": str(store.endpoint_url)}
        found = Cast(standin, base, server, sites, accounts, values)
        for one in (server, *sites):
            _secret(one, "globus-secret", accounts[one.name][1])
        for one in sites:
            _secret(one, "server-secret", accounts["server"][1])
        commands = write_slurm(base / "slurm", sites[0].home)
        sites[0].run(f"export PATH={commands}:$PATH")
        yield found


def _shell(stack: ExitStack, base: Path, name: str, user: int, cloud: str, environment: Mapping[str, str]) -> Shell:
    home = base / name
    (home / "federation").mkdir(parents=True)
    for program, place in (
        ("counterseal-env", Path(sys.executable).parents[1]),
        ("endpoint-env", find_endpoint_program().parents[1]),
    ):
        (home / program).symlink_to(place)
    for each in (home, home / "federation"):
        each.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(each, user, pwd.getpwuid(user).pw_gid)
    made = Shell(name, home, user, cloud, environment)
    stack.callback(made.end)
    return made


def _secret(shell: Shell, name: str, secret: str) -> None:
    path = shell.home / "federation" / name
    path.touch(0o600)
    path.write_text(secret)
    os.chown(path, shell.user, -1)


def _end_all(base: Path) -> None:
    """End what the parties left running: daemons, workers, jobs."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("HOME", "").startswith(str(base)):
                process.kill()


def _play(cast: Cast, step: Step) -> str:
    if step.role == "mail":
        cast.send(step.text)
        return ""
    said = ""
    for number, shell in enumerate(cast.of(step.role)):
        if "values" in step.words:
            names = set(re.findall(r"\b([A-Z_0-9]+)=", step.text))
            own = {
                "SITE_CLIENT": cast.accounts[shell.name][0],
                "SERVER_CLIENT": cast.accounts["server"][0],
                "FEDERATION": "tumour-study",
                "LOG": "fed.example.org/tumour-study",
                "PROFILE": PROFILES[number],
                **cast.values,
            }
            assert names <= own.keys(), names - own.keys()
            shell.variables(**{name: own[name] for name in names})
        elif "each-site" in step.words:
            for site in cast.sites:
                shell.variables(SITE_CLIENT=cast.accounts[site.name][0])
                said += shell.run(step.text)
        elif "daemon" in step.words:
            cloud = cast.standin.url
            lead = {
                "GLOBUS_SDK_ENVIRONMENT": "local",
                "HTTP_PROXY": cloud,
                "GLOBUS_SDK_SERVICE_URL_AUTH": f"{cloud}/auth",
                "GLOBUS_SDK_SERVICE_URL_GROUPS": f"{cloud}/groups",
            }
            shell.variables(**lead)
            said += shell.run(step.text)
            shell.run(f"unset {' '.join(lead)}")  # what the page itself leaves in the shell stays, for the next block
        else:
            said += shell.run(step.text)
    return said


def test_the_page_leads_to_a_federation(cast: Cast) -> None:
    said: list[str] = []
    for step in steps():
        if step.role == "site" and "enrol --config" in step.text:
            print_ = cast.server.run("counterseal keys show keys --passphrase-file passphrase --json | field keys")
            seal = re.search(r"'seal': '([0-9a-f]{64})'", print_)
            assert seal is not None
            for shell in cast.sites:  # read out by telephone
                shell.variables(FINGERPRINT=seal[1])
        if step.role == "site" and "$DIGEST" in step.text:
            digest = cast.server.value("DIGEST")
            for shell in cast.sites:
                shell.variables(DIGEST=digest)
        if step.role == "server" and "$SERVICE_ACCOUNTS" in step.text:
            named = " ".join(f"--service-account {cast.accounts[one.name][0]}" for one in cast.sites)
            cast.server.variables(SERVICE_ACCOUNTS=named)
        said.append(_play(cast, step))
        if step.role == "server" and "--register" in step.text:
            cast.values["FUNCTION"] = cast.server.value("FUNCTION")
    told = "".join(said)
    assert "completed" in said[-1] and "UNWITNESSED" not in said[-1]
    assert "PASS" in said[-1] and "FAIL" not in said[-1]
    for shell in cast.sites:
        assert list((shell.home / "federation" / "state" / "models").rglob("*")), f"{shell.name} got no model"
    for name, (_, secret) in cast.accounts.items():
        assert secret not in told, f"a command printed the secret of {name}"
    assert list((cast.base / "slurm" / "jobs").iterdir()), "nothing went through the scheduler"


def test_the_page_tells_what_was_not_run() -> None:
    """Blocks without a party are the ones that the page calls not run, and it says so beside each."""
    text = PAGE.read_text()
    parts = re.split(r"^```sh\n", text, flags=re.M)
    assert len(parts) == 3
    assert all("*not run" in before[-700:] for before in parts[:-1])
