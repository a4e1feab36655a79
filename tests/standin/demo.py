"""`make demo-globus`: the demonstration through a Globus group, S3 and Globus Compute, everything started and stopped here.

The same play as `counterseal demo`, in other surroundings (`federation`): the real Globus SDKs, a real endpoint daemon with the
kit's files at each of four sites, a real S3 server. Globus' own web services are a stand-in on this machine, and the report
says so. Exit code 1 if the run was aborted, a check failed, or a secret was found where none may be.

    python -m counterseal.tests.standin.demo [--out FOLDER] [--sites 4] [--rounds 6] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from counterseal.runtime.cli.output import jsonable
from counterseal.runtime.demo.document import document
from counterseal.runtime.demo.keep import keep
from counterseal.runtime.demo.play import DataReady, DemoEvent, play
from counterseal.runtime.demo.screen import Screen
from counterseal.runtime.demo.settings import DemoSettings
from counterseal.runtime.demo.surroundings import Surroundings
from counterseal.runtime.founding.federation import Founded
from counterseal.runtime.progress import RoundDone, SiteDone
from counterseal.runtime.transports.seam import Transport

from .federation import GlobusPlace, globus_place

__all__ = ["main"]


def main() -> int:
    """Play the demonstration; return the exit code."""
    parser = argparse.ArgumentParser(prog="make demo-globus", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--out", type=Path, help="a new folder; by default counterseal-demo-globus, -2, -3, ...")
    parser.add_argument("--sites", type=int, default=4, help="how many sites, each with an endpoint daemon")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", action="store_true", help="print one JSON document, progress on standard error")
    options = parser.parse_args()
    settings = DemoSettings.of(dataset="digits", model="mlp", sites=options.sites, rounds=options.rounds, store="s3")
    out = (options.out or _free(Path("counterseal-demo-globus"))).absolute()
    if out.exists():
        parser.error(f"{out} is taken: name a new folder with --out")
    console = Console(stderr=options.json)
    counts: dict[str, tuple[int, ...]] = {}
    stage = _Stage(console)
    with Screen(console) as screen:

        def observe(event: DemoEvent) -> None:
            if isinstance(event, DataReady):
                counts.update(event.counts)
            if isinstance(event, SiteDone | RoundDone):
                stage.say_endpoints()
            screen.show(event)

        result = play(settings, out, observe=observe, surrounding=stage.surround)
        report = keep(result, out)
        screen.finish(result, report)
    leaks = _leaks(out, stage.secrets)
    for path in leaks:
        console.print(f"A SECRET LIES IN {path}", style="bold red", markup=False)
    if options.json:
        json.dump(
            jsonable({**document(result, report, counts), "secrets_found": [str(one) for one in leaks]}), sys.stdout
        )
    elif not leaks:
        console.print(
            f"No account's secret is in any file that the parties wrote ({len(stage.secrets)} were looked for)."
        )
    return 0 if result.good and not leaks else 1


class _Stage:
    """Puts the surroundings up, and tells what it does."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._place: GlobusPlace | None = None
        self._slow: set[str] = set()
        self.secrets: dict[str, str] = {}

    def _tell(self, text: str) -> None:
        self._console.print(
            f"{time.monotonic() - self._started:6.1f} s  starting {text}", markup=False, highlight=False
        )

    def say_endpoints(self) -> None:
        """Name the endpoints that Globus does not hear, once each."""
        if self._place is None:
            return
        for number, (site, daemon) in enumerate(self._place.daemons.items(), 1):
            if site not in self._slow and not self._place.standin.control.online(daemon.uuid):
                self._slow.add(site)
                self._console.print(f"endpoint {number} is offline", markup=False)

    @contextmanager
    def surround(self, settings: DemoSettings, out: Path) -> Iterator[Surroundings]:
        """Yield a group, a bucket and endpoints."""
        with globus_place(out, settings.sites, tell=self._tell) as place:
            self._place, self.secrets = place, dict(place.secrets)
            self._tell(f"the federation: group {place.group}, function {place.function}; first tasks start the workers")

            def ready(founded: Founded) -> Transport | None:
                place.settle(founded)
                return None  # the one that server.yaml names

            yield Surroundings(
                place.sites,
                server=place.server,
                store=place.store,
                objects=place.objects,
                group=place.group,
                globus=place.globus,
                compute=place.compute,
                ready=ready,
            )
            self._place = None
            self._console.print("ending the endpoint daemons ...", markup=False)


def _free(base: Path) -> Path:
    number = 1
    while (path := base if number == 1 else base.with_name(f"{base.name}-{number}")).exists():
        number += 1
    return path


def _leaks(out: Path, secrets: dict[str, str]) -> list[Path]:
    """Return the files, apart from the parties' own secret files, that hold an account's secret."""
    own = {"globus-secret", "server.secret", "storage.db"}  # the last is the daemon's own store of tokens
    found = []
    for path in out.rglob("*"):
        if (
            path.is_file()
            and not path.is_symlink()
            and path.name not in own
            and "s3" not in path.relative_to(out).parts[:1]
        ):
            data = path.read_bytes()
            if any(secret.encode() in data for secret in secrets.values()):
                found.append(path)
    return found


if __name__ == "__main__":
    sys.exit(main())
