"""One target under atheris in this process: `python -m counterseal.tests.fuzz.one TARGET SECONDS FOLDER`.

Seeds and what atheris finds of interest go to FOLDER/corpus, the input of a crash to FOLDER. The address space is limited, so
that an input that makes a parser ask for much memory is a crash, too. Half of the inputs of a JSON format are edits of a value.
"""

from __future__ import annotations

import random
import resource
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["counterseal", "yaml", "rfc8785", "gzip"], exclude=["counterseal.tests"]):
    from counterseal.tests.fuzz.mutations import mutate
    from counterseal.tests.fuzz.targets import TARGETS

_ADDRESS_SPACE = 6 << 30
_RESIDENT_MB = 1536
_ONE_INPUT_SECONDS = 20
_LONGEST = 1 << 17


def main(name: str, seconds: int, folder: Path) -> None:
    """Fuzz ``name`` until ``seconds`` are over or it crashes; libFuzzer ends the process."""
    target = TARGETS[name]
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = target.seeds()
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))

    def change(data: bytes, longest: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.5:
            found: bytes = atheris.Mutate(data, longest)
            return found
        return mutate(data, seeds, chance, as_json=target.as_json)[:longest]

    def check(data: bytes) -> None:
        target.check(data)

    options = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={_RESIDENT_MB}",
        f"-timeout={_ONE_INPUT_SECONDS}",
        f"-max_len={_LONGEST}",
        f"-artifact_prefix={folder}/{name}-",
        "-verbosity=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], check, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
