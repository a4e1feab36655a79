"""The error tree is drawn in docs/errors.md, and the drawing is the tree. `python -m counterseal.tests.test_errors` draws it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import counterseal
from counterseal.errors import CountersealError

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"
FOLDERS = ("algorithms", "audit", "privacy", "runtime", "trust", "errors", "parameters")
INTRODUCTION = """# Errors

Every error that counterseal raises for somebody's bad input, bad bytes or bad luck is in this tree. `str(error)` says where,
what was wrong and what to do; `error.code` is the reason code, the only part of an error that is ever sent to a peer or
written to the log. Anything else that escapes is a bug: please report it. (Drawn from the classes by `tests/test_errors.py`.)

"""


def tree() -> list[type[CountersealError]]:
    """Return every error class, depth first, after importing everything."""
    for found in pkgutil.walk_packages(counterseal.__path__, "counterseal."):
        if found.name.split(".")[1] in FOLDERS and not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    return list(_below(CountersealError))


def _below(kind: type[CountersealError]) -> Iterator[type[CountersealError]]:
    yield kind
    for child in sorted(kind.__subclasses__(), key=lambda one: one.__name__):
        ours = child.__module__.startswith("counterseal.") and ".tests." not in child.__module__
        if ours and (child.__name__[0] != "_" or child.__subclasses__()):
            yield from _below(child)


def drawing() -> str:
    """Return the page."""
    lines = []
    for kind in tree():
        depth = len(kind.__mro__) - len(CountersealError.__mro__)
        name = "    " * depth + kind.__name__
        said = re.sub(r"\s+", " ", (kind.__doc__ or "").strip().split("\n\n")[0])
        lines.append(f"{name:<40} {kind.code:<24} {said}"[:150].rstrip())
    return INTRODUCTION + "```text\n" + "\n".join(lines) + "\n```\n"


def test_the_page_is_the_tree() -> None:
    assert PAGE.read_text() == drawing(), "run: python -m counterseal.tests.test_errors"


def test_every_error_says_what_it_means() -> None:
    assert not [kind.__name__ for kind in tree() if kind.__name__[0] != "_" and not (kind.__doc__ or "").strip()]


def test_codes_are_codes_and_leaves_have_their_own() -> None:
    kinds = tree()
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,63}", kind.code) for kind in kinds)
    own = Counter(kind.code for kind in kinds if "code" in vars(kind))
    assert not [code for code, count in own.items() if count > 1], "two errors of one code"


def test_an_error_says_where_what_and_what_to_do() -> None:
    error = CountersealError("the bytes are cut", where="blob", remedy="Fetch it again.")
    assert str(error) == "blob: the bytes are cut. Fetch it again."


if __name__ == "__main__":
    PAGE.write_text(drawing())
