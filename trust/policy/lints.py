"""What is allowed in a policy and probably not meant: warnings for the officer, by policy and line.

They look at what a policy mentions, not at what it means: a warning can be wrong, and silence proves nothing. `SitePolicy.decide`
does not know them; `nearby` and `counterseal policy explain` show what a policy really answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .policy import Policy, SitePolicy
from .request import ACTIONS

__all__ = ["Lint", "actions_of", "lints", "mentions", "walk"]

_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*+")|//[^\n\r]*', re.S)
_ADVICE = re.compile(r'@advice\s*\(\s*"(?:[^"\\]|\\.)*+"\s*\)', re.S)


@dataclass(frozen=True, slots=True)
class Lint:
    """One warning; ``policy`` is empty where it is about the whole file."""

    policy: str
    line: int
    text: str


def lints(policy: SitePolicy) -> tuple[Lint, ...]:
    """Return the warnings about ``policy``, in the order of the file."""
    found = [Lint(one.id, one.line, text) for one in policy.policies for text in (*_of_permit(one), *_of_any(one))]
    permitted = {action for one in policy.policies if one.effect == "permit" for action in actions_of(one)}
    silent = [action for action in ACTIONS if action not in permitted]
    if silent:
        found.append(Lint("", 1, f"no policy permits {', '.join(silent)}: always denied"))
    return tuple(found)


def actions_of(policy: Policy) -> tuple[str, ...]:
    """Return the actions that the head of ``policy`` names."""
    scope = policy.parsed.form["action"]
    if scope["op"] == "All":
        return ACTIONS
    entities = scope["entities"] if "entities" in scope else [scope["entity"]]
    return tuple(entity["id"] for entity in entities)


def mentions(policy: Policy) -> frozenset[str]:
    """Return the facts that ``policy`` looks at, as ``context.privacy.epsilon_run``."""
    return frozenset(path for node in walk(policy.parsed.form) if (path := _path(node)) is not None)


def walk(value: Any) -> Iterator[Any]:
    """Return ``value`` and everything in it."""
    yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(one)


def _path(node: Any) -> str | None:
    if not isinstance(node, dict):
        return None
    if isinstance(name := node.get("Var"), str):
        return name
    inner = node.get(".") or node.get("has")
    if not isinstance(inner, dict) or "attr" not in inner:
        return None
    left = _path(inner["left"])
    return None if left is None else f"{left}.{inner['attr']}"


def _of_permit(policy: Policy) -> Iterator[str]:
    if policy.effect != "permit":
        return
    facts, actions = mentions(policy), actions_of(policy)
    if "train" in actions and "context.unprotected_allowed" not in facts:
        if not facts & {"context.private", "context.privacy"}:
            yield "permits training without asking whether the run is private (context.private)"
        elif not facts & {"context.privacy.epsilon_run", "context.privacy.noise_multiplier"}:
            yield "permits private training at any epsilon"
    if "releaseMetrics" in actions and not facts & {"resource.public", "context.unprotected_allowed"}:
        yield "permits exact metrics without asking whether the data are public (resource.public)"


def _of_any(policy: Policy) -> Iterator[str]:
    for clause in policy.parsed.form["conditions"]:
        if clause["body"] == {"Value": clause["kind"] == "unless"}:
            yield "never applies: its condition is always false"
    if not _ADVICE.sub("", _COMMENT.sub(lambda match: match[1] or "", policy.written.text)).isascii():
        yield "compares with letters beyond ASCII: some look like others and are not equal"
