"""Every target runs here too, without atheris: over its seeds, and over the same 300 changes of them in every run."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from counterseal.errors import CountersealError

from .mutations import mutate
from .target import count_taken
from .targets import TARGETS

_CHANGES = 300


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    count_taken()
    for seed in seeds:
        target.check(seed)
    assert count_taken() >= target.least, "the seeds do not reach the parser"
    chance = random.Random(f"counterseal {name}")
    for _ in range(_CHANGES):
        data = mutate(chance.choice(seeds), seeds, chance, as_json=target.as_json)
        try:
            target.check(data)
        except CountersealError as error:
            raise AssertionError(f"{type(error).__name__} escaped the target on {data[:300]!r}") from error
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} on {data[:2000]!r}") from error


_READS = re.compile(
    r"json\.loads|\bparse\(|parse_document|open_document|struct\.unpack|\.from_json\(|model_validate_json|yaml\.(parse|compose|SafeLoader)"
    r"|int\.from_bytes|b64decode|gzip\.open|\.partition\(b|safe_open|strict_base64\("
)
"""How a module looks that reads bytes or text by itself."""

_NO_PARSER = {
    "audit/checks/leaf_checks.py": "calls of audit/events.py",
    "audit/governance.py": "calls of trust/messages.py and trust/keys/statement.py",
    "audit/tlog/witness.py": "calls of audit/tlog/checkpoint.py",
    "runtime/anchors/pkcs11.py": "calls of privacy/ledger/anchor.py",
    "runtime/anchors/s3_lock.py": "calls of privacy/ledger/anchor.py",
    "runtime/cli/site.py": "calls of runtime/config",
    "runtime/cli/audit.py": "calls of the readers above",
    "runtime/cli/keys.py": "calls of trust/keys/statement.py",
    "runtime/cli/timeline.py": "calls of audit/events.py",
    "runtime/demo/play.py": "files of this process",
    "runtime/journal.py": "a party's own table",
    "runtime/server/rounds/admission.py": "calls of runtime/delivery.py and trust/blob/manifest.py",
    "runtime/server/rounds/openings.py": "this process's own documents",
    "runtime/server/correspondence/errand.py": "calls of runtime/delivery.py",
    "runtime/server/correspondence/filing.py": "calls of trust/messages.py and trust/keys/statement.py",
    "runtime/server/correspondence/receipts.py": "calls of runtime/delivery.py: target answer",
    "runtime/server/rounds/round.py": "a party's own table",
    "runtime/server/rounds/noise.py": "a party's own table",
    "runtime/server/rounds/state.py": "a party's own table",
    "runtime/server/run.py": "a party's own table",
    "runtime/server/start.py": "a party's own table",
    "runtime/server/correspondence/tickets.py": "a party's own table",
    "runtime/cli/doctor_endpoint.py": "calls of trust/canonical.py, on the daemon's own file",
    "runtime/site/answering.py": "calls of runtime/delivery.py: target delivery",
    "runtime/transports/compute/child.py": "frames of the server that started it: tests/globus/test_compute_child.py",
    "runtime/transports/compute/link.py": "frames of its own child: tests/globus/test_compute_child.py",
    "runtime/transports/compute/listening.py": "calls of runtime/delivery.py: target answer",
    "runtime/transports/compute/parcels.py": "deliveries of this server",
    "runtime/site/outbox.py": "calls of trust/mailbox.py, on the party's own folder",
    "runtime/site/memory.py": "the site's own files, sealed to itself",
    "runtime/site/steward.py": "calls of runtime/config: target run-start",
    "runtime/site/work.py": "behind the checks of the target site",
    "runtime/training/seam.py": "arrays of this process",
    "runtime/training/checkpoint.py": "the site's own files: tests/runtime/test_training_checkpoint.py",
    "trust/blob/inspect.py": "calls of trust/blob/manifest.py",
    "trust/keys/token.py": "answers of a PKCS#11 module that the party chose",
}
"""Modules that look so and need no target, with the reason."""


def test_every_parser_has_a_target() -> None:
    """A new module that reads bytes gets a target, or a line above that says why not."""
    root = Path(__file__).parents[2]
    floors = [root / name for name in ("algorithms", "audit", "privacy", "runtime", "trust")]
    sources = [*root.glob("*.py"), *(path for floor in floors for path in floor.rglob("*.py"))]
    readers = {path.relative_to(root).as_posix() for path in sources if _READS.search(path.read_text())}
    covered = {module for target in TARGETS.values() for module in target.covers}
    assert readers - covered - _NO_PARSER.keys() == set()
    assert all((root / module).is_file() for module in covered)
    assert covered & _NO_PARSER.keys() == set()
