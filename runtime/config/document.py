"""YAML files in, validated models out; every problem says file, line, field, and what would be right.

The YAML taken is the plain core of YAML 1.2: maps with unique string keys, lists, and scalars that are null, true or
false, integers, floats (`1e-3` is one) or text. Refused, with their line: aliases (a small file could unfold to a huge
one), tags (nothing in a file chooses a Python type), duplicate keys (the later one would silently win), several
documents, nesting over 32, files over 1 MiB. `no`, `on` and dates stay text, so that a site called `no` keeps its name.

Values are never echoed in an error: parameters may hold what should not stand in a terminal's history.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ...trust.documents import Model
from ..errors import ConfigError

__all__ = ["Problem", "ConfigProblems", "Source", "read_model", "read_text"]

_LIMIT = 1 << 20
_SHOWN = 50  # problems: nobody reads more, and each costs a search for what was meant
_DEPTH = 32

M = TypeVar("M", bound=Model)
Place: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; ``line`` counts from 1."""

    file: str
    line: int
    field: str
    what: str

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else ""
        text = f"{self.file}:{self.line}: {field}{self.what}"
        # Names come from the file: none may move the cursor, or look like another line.
        return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


class ConfigProblems(ConfigError):
    """A configuration file with problems; `problems` lists them in the file's order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems

    def __str__(self) -> str:
        return self.what


class _Plain(yaml.SafeLoader):
    """Composes nodes only: nothing is constructed, and scalars resolve as in the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  PyYAML's own way

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse aliases and deep nesting before they are composed."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise self._refuse("aliases are not allowed", event)
        if self.depth >= _DEPTH:
            raise self._refuse(f"nested deeper than {_DEPTH}", event)
        self.depth += 1
        try:
            node = super().compose_node(parent, index)
        finally:
            self.depth -= 1
        if node is not None and getattr(event, "tag", None) is not None:
            node.tag = "!"  # a tag that the file spells is refused, even where it says what is so: see `Source._plain`
        return node

    @staticmethod
    def _refuse(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=problem, problem_mark=cast(Any, event.start_mark))


_TAG = "tag:yaml.org,2002:"
for _name, _pattern, _first in (
    ("null", r"^(null|~|)$", ["n", "~", ""]),
    ("bool", r"^(true|false)$", ["t", "f"]),
    ("int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    ("float", r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$", list("-+.0123456789")),
):
    _Plain.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


class Source:
    """A composed file: its plain value, and the line of every place in it."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self._lines: dict[Place, int] = {(): 1}
        self.value = self._read(text)

    def line(self, place: Place) -> int:
        """Return the line of ``place``, or of the nearest place around it."""
        while place not in self._lines:
            place = place[:-1]
        return self._lines[place]

    def holds(self, place: Place) -> bool:
        """Say whether the file has ``place``."""
        return place in self._lines

    def _read(self, text: str) -> Any:
        try:
            node = _Plain(text).get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = ", ".join(text for text in (error.context, error.problem) if text)
            raise self._problem((mark.line if mark else 0) + 1, what or "not YAML") from None
        except yaml.YAMLError:
            raise self._problem(1, "holds a character that YAML does not allow") from None
        except RecursionError:
            raise self._problem(1, "nested too deep") from None
        except (ValueError, OverflowError):  # the library's own: an escape beyond Unicode, a version of many digits
            raise self._problem(1, "holds an escape or a number that does not exist") from None
        if not isinstance(node, yaml.MappingNode):
            raise self._problem(1, "the file must be a map of names to values")
        return self._plain(node, ())

    def _problem(self, line: int, what: str, field: str = "") -> ConfigProblems:
        return ConfigProblems((Problem(self.file, line, field, what),))

    def _plain(self, node: yaml.Node, place: Place) -> Any:
        self._lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return dict(self._pairs(node, place))
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self._plain(item, (*place, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        raise self._tag(node, place)

    def _pairs(self, node: yaml.MappingNode, place: Place) -> Iterator[tuple[str, Any]]:
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in {_TAG + "str", _TAG + "int"}:
                raise self._problem(line, "a name must be plain text", field_of(place))
            name = key.value
            if name in seen:
                raise self._problem(line, "the same name stands twice in one map", field_of((*place, name)))
            seen.add(name)
            self._lines[(*place, name)] = line
            yield name, self._plain(value, (*place, name))

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        text = node.value
        match node.tag.removeprefix(_TAG):
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text == "true"
            case "int" if len(text) <= 17 and abs(int(text)) < 2**53:
                return int(text)
            case "float" if abs(float(text)) != float("inf"):
                return float(text)
            case "int" | "float":
                raise self._problem(self.line(place), "a number out of range", field_of(place))
        raise self._tag(node, place)

    def _tag(self, node: yaml.Node, place: Place) -> ConfigProblems:
        return self._problem(node.start_mark.line + 1, "tags (!...) are not allowed", field_of(place))


def field_of(place: Place) -> str:
    """Return ``place`` as people write it: ``trainer.metrics[0].name``."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_text(path: Path) -> str:
    """Return the text of a configuration file.

    Raises:
        ConfigError: there is no such file, it is too long, or it is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=str(path)) from None
    if len(data) > _LIMIT:
        raise ConfigError(f"over {_LIMIT} bytes", where=str(path))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8", where=str(path)) from None


def read_model(model: type[M], text: str, *, file: str, folder: Path) -> M:
    """Return the ``model`` that the YAML in ``text`` describes; relative paths start at ``folder``.

    Raises:
        ConfigProblems: with every problem (at most 50, then a count) and its line.
    """
    source = Source(text, file)
    try:
        return model.model_validate_json(json.dumps(source.value), context={"folder": folder})
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    problems = [_describe(model, source, detail) for detail in details[:_SHOWN]]
    if len(details) > _SHOWN:
        problems.append(Problem(file, len(text), "", f"and {len(details) - _SHOWN} more problems"))
    raise ConfigProblems(tuple(sorted(problems, key=lambda problem: problem.line))) from None


def _describe(model: type[Model], source: Source, detail: ErrorDetails) -> Problem:
    place: Place = ()
    for part in detail["loc"]:
        # Parts that the file does not have are pydantic's names for the branches of a union.
        if source.holds((*place, part)):
            place = (*place, part)
    what = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    missing = detail["type"] == "missing"
    field = field_of((*place, detail["loc"][-1]) if missing else place)
    if missing:
        what = "is required"
    elif detail["type"] == "extra_forbidden":
        what = "is not a known name" + _suggestion(model, detail["loc"])
    elif detail["type"].startswith("union_tag"):
        context = detail["ctx"]
        field += "." + context["discriminator"].strip("'")
        what = f"must be one of {context['expected_tags']}" if "expected_tags" in context else "is required"
    elif detail["msg"].startswith("Input should be "):
        what = f"must be {what}" + _quote_hint(detail, source, place)
    return Problem(source.file, source.line(place), field, what)


def _quote_hint(detail: ErrorDetails, source: Source, place: Place) -> str:
    value: Any = source.value
    for part in place:
        value = value[part]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return ' (write it in quotes: "...")' if detail["type"] == "string_type" and number else ""


def _suggestion(model: type[Model], place: Place) -> str:
    known = _known(model, place[:-1])
    near = difflib.get_close_matches(str(place[-1]), known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _known(model: type[BaseModel], place: Place) -> list[str]:
    """Return the names of the fields at ``place``, found by walking the published schema."""
    schema = model.model_json_schema()
    found = [schema]
    for part in place:
        found = [child for one in found for child in _children(one, part, schema)] or found
    return sorted({name for one in _open(found, schema) for name in one.get("properties", {})})


def _children(one: dict[str, Any], part: str | int, root: dict[str, Any]) -> list[dict[str, Any]]:
    children = []
    for schema in _open([one], root):
        if isinstance(part, int):
            children.append(schema.get("items", {}))
        elif part in schema.get("properties", {}):
            children.append(schema["properties"][part])
        elif schema.get("properties", {}).get("kind", {}).get("const") == part:
            return [schema]
    return [child for child in children if child]


def _open(schemas: list[dict[str, Any]], root: dict[str, Any]) -> list[dict[str, Any]]:
    opened = []
    for schema in schemas:
        if "$ref" in schema:
            opened += _open([root["$defs"][schema["$ref"].rsplit("/", 1)[-1]]], root)
        elif "anyOf" in schema or "oneOf" in schema:
            opened += _open(schema.get("anyOf", []) + schema.get("oneOf", []), root)
        else:
            opened.append(schema)
    return opened
