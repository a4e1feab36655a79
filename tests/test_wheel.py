"""What stands in the tree is what the wheel installs."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {"algorithms", "audit", "privacy", "runtime", "trust"}
FILES = {"__init__.py", "durable.py", "errors.py", "parameters.py", "py.typed"}


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = {
        ".".join(("counterseal", *init.parent.relative_to(ROOT).parts))
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(listed["tool"]["setuptools"]["packages"]) == {"counterseal"} | found


def test_the_view_shows_every_folder() -> None:
    view = {link.name for link in (ROOT / ".view" / "counterseal").iterdir()}
    assert view == FOLDERS | FILES | {"tests"}
