"""Fuzz every parser, each in a process of its own: `tests/fuzz/run.py [--seconds N] [TARGET...]`.

    tests/fuzz/run.py                              all targets, 20 seconds each
    tests/fuzz/run.py --seconds 600 site dsse      two of them, longer
    tests/fuzz/run.py --input FILE TARGET          one input again, without atheris

Prints a table and ends with 1 if anything crashed. The crashing input lies then under tests/fuzz/crashes/, with what the process
said beside it. Targets that check signatures make their keys afresh in every process: there the traceback is what tells, and
the input only helps.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from counterseal.tests.fuzz.targets import TARGETS

CRASHES = Path(__file__).parent / "crashes"
_START = 120
"""Seconds that a process may take to play the run its seeds come from, beyond the time to fuzz."""

_RUNS = re.compile(r"Done (\d+) (?:runs )?in (\d+) second")
_LAST = re.compile(r"^#(\d+)\s", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table."""

    target: str
    executions: int
    seconds: float
    crash: Path | None

    def row(self) -> str:
        """Return the row."""
        rate = self.executions / max(self.seconds, 1.0)
        return f"{self.target:<16}{self.executions:>12,}{int(self.crash is not None):>9}{rate:>11,.0f}"


def fuzz(name: str, seconds: int) -> Outcome:
    """Run one target; keep its crash, if there is one."""
    with tempfile.TemporaryDirectory(prefix="counterseal-fuzz-") as temporary:
        folder = Path(temporary)
        command = [sys.executable, "-u", "-m", "counterseal.tests.fuzz.one", name, str(seconds), str(folder)]
        begin = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, timeout=seconds + _START)
            code, said = done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")
        except subprocess.TimeoutExpired as error:
            code, said = -1, ((error.stdout or b"") + (error.stderr or b"")).decode("utf-8", "replace") + "\nhung"
        finished = _RUNS.search(said)
        counts = [int(one) for one in _LAST.findall(said)]
        executions = int(finished[1]) if finished else max(counts, default=0)
        spent = float(finished[2]) if finished else min(time.monotonic() - begin, float(seconds))
        return Outcome(name, executions, spent, _keep(name, folder, said) if code else None)


def _keep(name: str, folder: Path, said: str) -> Path:
    CRASHES.mkdir(exist_ok=True)
    found = sorted(path for path in folder.glob(f"{name}-*") if path.is_file())
    stem = found[0].name if found else f"{name}-no-input"
    kept = CRASHES / stem
    kept.write_bytes(found[0].read_bytes() if found else b"")
    kept.with_name(stem + ".txt").write_text(_told(said))
    return kept


def _told(said: str) -> str:
    lines = [line for line in said.splitlines() if not line.startswith(("INFO: Instrumenting", "#"))]
    return "\n".join(lines)[-20_000:] + "\n"


def main() -> int:
    """Parse the arguments, fuzz, print; return the exit code."""
    parser = argparse.ArgumentParser(description="Fuzz the parsers.")
    parser.add_argument("--seconds", type=int, default=20, help="for each target")
    parser.add_argument("--input", type=Path, help="run one target on this file only")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    wanted = parser.parse_args()
    if unknown := [name for name in wanted.targets if name not in TARGETS]:
        parser.error(f"no target {unknown[0]}; known: {', '.join(TARGETS)}")
    if wanted.input is not None:
        TARGETS[wanted.targets[0]].check(wanted.input.read_bytes())
        return 0
    print(f"{'target':<16}{'executions':>12}{'crashes':>9}{'exec/s':>11}")
    outcomes = []
    for name in wanted.targets or TARGETS:
        outcomes.append(fuzz(name, wanted.seconds))
        print(outcomes[-1].row(), flush=True)
    crashed = [one for one in outcomes if one.crash is not None]
    for one in crashed:
        print(f"\n{one.target} crashed; what it said: {one.crash}.txt")
        print(f"again: {sys.executable} {Path(__file__)} --input {one.crash} {one.target}")
    return int(bool(crashed))


if __name__ == "__main__":
    sys.exit(main())
