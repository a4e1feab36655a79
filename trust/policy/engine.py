"""All that touches Cedar: parse, validate against the schema, evaluate. Errors are ours, and nothing else escapes.

Why this much care around a library call:

- Cedar *skips* a policy whose evaluation fails. A ``forbid`` that overflows would silently forbid nothing, so `Rules.ask` returns
  the errors and its caller must deny on any.
- A *template* (``?principal``) is never evaluated: a ``forbid`` written so would forbid nothing. Templates are refused.
- A panic of the library arrives as a ``BaseException`` that ``except Exception`` lets pass; here it is an error like others.
- Depth that would overflow its stack is refused before (`text`).

The request is validated against the schema in every call, beside the policies at load. The library's validator reports errors
only; its warnings (a condition that is never true, letters of two alphabets in one name) are not shown by its Python interface:
`lints` looks for some of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import PolicyEngineError, SitePolicyError
from .text import Statement

__all__ = ["Answer", "ParsedPolicy", "Rules"]

_REMEDY = "See docs/policy.md for what a policy can say."


@dataclass(frozen=True, slots=True)
class ParsedPolicy:
    """One policy as Cedar read it."""

    number: int
    """Its place in the file, from 0."""
    effect: str
    """``permit`` or ``forbid``."""
    annotations: Mapping[str, str | None]
    form: Mapping[str, Any]
    """Cedar's JSON form."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Cedar said: believe ``allowed`` only if there are no ``errors``."""

    allowed: bool
    numbers: tuple[int, ...]
    errors: tuple[str, ...]


class Rules:
    """A policy set and the schema that it was validated against."""

    def __init__(self, text: str, schema: str, written: tuple[Statement, ...], *, file: str) -> None:
        """Parse and validate.

        Raises:
            PolicyEngineError: cedarpy is missing.
            SitePolicyError: the text is no policy set for this schema; ``where`` is ``file:line``.
        """
        self._cedar = _import_cedar()
        with _guarded(file):
            self._schema = self._cedar.Schema.from_str(schema)
        self._set = self._parse(text, written, file)
        with _guarded(file):
            self.policies = self._read(text, written, file)
            self._validate(text, written, file)
        self._places = {f"policy{policy.number}": policy.number for policy in self.policies}

    def ask(self, request: dict[str, Any], entities: list[dict[str, Any]]) -> Answer:
        """Evaluate one request; every failure is among the errors of the answer."""
        try:
            with _guarded("evaluation"):
                result = self._cedar.is_authorized(request, self._set, entities, self._schema)
                numbers = tuple(sorted(self._places[name] for name in result.diagnostics.reasons))
                errors = tuple(str(error) for error in result.diagnostics.errors)
                decided = result.decision in (self._cedar.Decision.Allow, self._cedar.Decision.Deny)
                allowed = result.decision is self._cedar.Decision.Allow
        except SitePolicyError as error:
            return Answer(False, (), (str(error),))
        if not decided and not errors:
            errors = ("no decision",)
        return Answer(allowed, numbers, errors)

    def _parse(self, text: str, written: tuple[Statement, ...], file: str) -> Any:
        try:
            with _guarded(file):
                return self._cedar.PolicySet.from_str(text)
        except SitePolicyError as error:
            for one in written:  # Cedar does not say where: the first policy that it does not take alone is the place
                try:
                    with _guarded(file):
                        self._cedar.PolicySet.from_str(one.text)
                except SitePolicyError as found:
                    raise SitePolicyError(found.what, where=f"{file}:{one.line}", remedy=_REMEDY) from None
            raise error from None

    def _read(self, text: str, written: tuple[Statement, ...], file: str) -> tuple[ParsedPolicy, ...]:
        parsed = json.loads(self._cedar.policies_to_json_str(text))
        for name in parsed["templates"]:
            where = f"{file}:{written[_number(name)].line}"
            raise SitePolicyError("a template (?principal, ?resource) is never evaluated", where=where, remedy=_REMEDY)
        if {_number(name) for name in parsed["staticPolicies"]} != set(range(len(written))):
            raise SitePolicyError("policies that cannot be told apart", where=file, remedy=_REMEDY)
        found = [
            ParsedPolicy(_number(name), form["effect"], form.get("annotations", {}), form)
            for name, form in parsed["staticPolicies"].items()
        ]
        return tuple(sorted(found, key=lambda policy: policy.number))

    def _validate(self, text: str, written: tuple[Statement, ...], file: str) -> None:
        result = self._cedar.validate_policies(text, self._schema)
        for fault in result.errors:
            line = f":{written[_number(fault.policy_id)].line}" if fault.policy_id else ""
            raise SitePolicyError(fault.error[:300], where=f"{file}{line}", remedy=_REMEDY)
        if result.validation_passed is not True:
            raise SitePolicyError("it does not fit the schema", where=file, remedy=_REMEDY)


def _import_cedar() -> Any:
    try:
        import cedarpy
    except ImportError:
        remedy = "Run: pip install 'counterseal[policy]'"
        raise PolicyEngineError("cedarpy, which evaluates site policies, is not installed", remedy=remedy) from None
    return cedarpy


@contextmanager
def _guarded(where: str) -> Iterator[None]:
    try:
        yield
    except (SitePolicyError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  (a panic of the library is no Exception)
        what = str(error) if isinstance(error, ValueError) else f"Cedar failed ({type(error).__name__})"
        raise SitePolicyError(what.splitlines()[0][:300] if what else "refused", where=where, remedy=_REMEDY) from None


def _number(name: str) -> int:
    """Return the n of Cedar's name ``policy<n>``: the policy's place in the text."""
    return int(name.removeprefix("policy"))
