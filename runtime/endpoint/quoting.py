"""Names and paths for the files of an endpoint: what cannot be written safely is refused, the rest is quoted.

The same path stands in a shell script, in YAML that a Jinja template engine reads first, in a unit of systemd. Each quoting
function is for one of these readers and leaves it nothing to obey. Where a reader is known not to quote at all (Parsl hands
paths to a shell as they are, sudoers has wildcards), only narrow paths are taken.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, StringConstraints

from ...trust.identifiers import Text

__all__ = [
    "AbsolutePath",
    "EnvironmentName",
    "NarrowPath",
    "PlainName",
    "UserName",
    "is_narrow",
    "shell",
    "systemd",
    "yaml",
    "yaml_text",
]


def _absolute(text: str) -> str:
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts or str(path) != text:
        raise ValueError("a path must be absolute, without `..` and without a final slash")
    return text


AbsolutePath = Annotated[Text, StringConstraints(min_length=2), AfterValidator(_absolute)]
"""An absolute path without control characters; anything else may be in it, and is quoted."""

_NARROW = r"^(/[A-Za-z0-9_@+][A-Za-z0-9._@+-]{0,127}|/\.[A-Za-z0-9_-]{1,127}){1,30}$"

NarrowPath = Annotated[str, StringConstraints(pattern=_NARROW)]
"""An absolute path of letters, digits and ``._@+-``: nothing that a shell, Parsl or sudoers would obey."""

PlainName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,127}$")]
"""The name of a partition, an account, an image: handed to a scheduler as it is."""

UserName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
"""A local account, as useradd takes it."""

EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
"""The name of an environment variable."""

_AS_IT_IS = re.compile(r"[ !#$&-Z\[\]^-z|~]")  # printable ASCII without " % \ { }


def is_narrow(path: str) -> bool:
    """Whether ``path`` is a `NarrowPath`."""
    return re.fullmatch(_NARROW.removesuffix("$"), path) is not None


def shell(text: str) -> str:
    """Return ``text`` as one word of a POSIX shell.

    >>> shell("a b'c")
    '\\'a b\\'"\\'"\\'c\\''
    """
    return shlex.quote(text)


def yaml_text(text: str) -> str:
    """Return ``text`` as a double-quoted scalar of YAML in which Jinja finds nothing to do.

    Braces and percent signs are written as escapes, so that no ``{{``, ``{%`` or ``{#`` can arise.

    >>> yaml_text('{{ x }}')
    '"\\\\x7b\\\\x7b x \\\\x7d\\\\x7d"'
    """
    return '"' + "".join(one if _AS_IT_IS.fullmatch(one) else _escaped(one) for one in text) + '"'


def _escaped(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def yaml(value: dict[str, Any], indent: int = 0) -> str:
    """Return ``value`` as block YAML; its keys are names of ours, its texts are quoted with `yaml_text`."""
    lines = []
    for name, one in value.items():
        start = f"{' ' * indent}{name}:"
        if isinstance(one, dict) and one:
            lines.append(f"{start}\n{yaml(one, indent + 2)}")
        elif isinstance(one, list | tuple) and one:
            lines.append("\n".join([start, *(f"{' ' * indent}  - {_scalar(item)}" for item in one)]) + "\n")
        else:
            lines.append(f"{start} {_scalar(one)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return yaml_text(value) if isinstance(value, str) else "{}" if isinstance(value, dict) else "[]"


def systemd(text: str) -> str:
    """Return ``text`` as one word of a systemd unit: ``%`` begins a specifier there, and ``$`` a variable.

    >>> systemd("/a b/50%")
    '"/a b/50%%"'
    """
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{quoted}"'
