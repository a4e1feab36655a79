"""Policy files that are refused, and where the error says to look."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from counterseal.errors import CountersealError
from counterseal.tests.trust.policy_world import ANY, TRAIN, asked, one, policy
from counterseal.trust.errors import PolicyEngineError, SitePolicyError
from counterseal.trust.policy.engine import Rules
from counterseal.trust.policy.lints import lints
from counterseal.trust.policy.policy import SitePolicy, default_text, schema_text
from counterseal.trust.policy.text import LIMIT, statements

GOOD = one("context.anchored", name="good")
HEAD = f"permit (principal, {TRAIN}, resource)"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("permit", "site.cedar:1", "unexpected end"),
        (f'{GOOD}\n\n@id("b")\npermit (principal, action resource);', "site.cedar:3", "unexpected token"),
        (f'{GOOD}\n@id("b") allow (principal, action, resource);', "site.cedar:2", "effect"),
        (one("context.anchord"), "site.cedar:1", "anchord"),
        (one("resource.secret", head=HEAD), "site.cedar:1", "secret"),
        ("// a comment\n" + GOOD + "\n" + one('context.version == "3"'), "site.cedar:3", "not compatible"),
        (one('context.privacy.mechanism == "dp-sgd"', head=HEAD), "site.cedar:1", "optional attribute"),
        (one("context.release > 1"), "site.cedar:1", "optional attribute"),
        (one('context has privacy && context.privacy.epsilon_run < decimal("8.0")'), "site.cedar:1", "decimal"),
        (
            one('context has privacy && context.privacy.epsilon_run.lessThan(decimal("8.00001"))'),
            "site.cedar:1",
            "decimal",
        ),
        (one("context.anchored(1)"), "site.cedar:1", ""),
        ('@id("a") permit (principal, action == Counterseal::Action::"trian", resource);', "site.cedar:1", "trian"),
        ('@id("a") permit (principal is Counterseal::Dataset, action, resource);', "site.cedar:1", ""),
        ('@id("a") permit (principal == User::"alice", action, resource);', "site.cedar:1", "User"),
        (f"{ANY};", "site.cedar:1", "without a name"),
        (f"{GOOD}\n@id {ANY};", "site.cedar:2", "without a name"),
        (f'{GOOD}\n@id("") {ANY};', "site.cedar:2", "without a name"),
        (f'@id("builtin:epsilon-cap") {ANY};', "site.cedar:1", "not made of"),
        (f'@id("a\\u{{202e}}b") {ANY};', "site.cedar:1", "not made of"),
        (f'@id("good\\n") {ANY};', "site.cedar:1", "not made of"),
        (f"{GOOD}\n{GOOD}", "site.cedar:2", "a second policy called good"),
        (f'@id("a") @id("b") {ANY};', "site.cedar:1", "annotation"),
        (f'@id("a") @advise("typo") {ANY};', "site.cedar:1", "@advise"),
        (f'@id("a") @advice("\\u{{202e}}") {ANY};', "site.cedar:1", "printable"),
        (f'@id("a") @advice("{"x" * 501}") {ANY};', "site.cedar:1", "500"),
        (f'{GOOD}\n@id("t") forbid (principal == ?principal, action, resource);', "site.cedar:2", "template"),
        (f"{GOOD}\n// note \u202e hidden", "site.cedar:2", "U+202E"),
        (f"{GOOD}\n// \x1b[2J", "site.cedar:2", "U+001B"),
        (f"\ufeff{GOOD}", "site.cedar:1", "U+FEFF"),
        ("\n" * (LIMIT + 1), "site.cedar", "more than"),
    ],
)
def test_refused_with_the_line(text: str, where: str, what: str) -> None:
    with pytest.raises(SitePolicyError) as caught:
        policy(text)
    assert caught.value.where == where, caught.value
    assert what in caught.value.what, caught.value


def test_not_utf8_is_refused() -> None:
    with pytest.raises(SitePolicyError) as caught:
        SitePolicy(GOOD.encode() + b"\n// \xff", file="site.cedar")
    assert caught.value.where == "site.cedar:2"


CAREFULLY_DEEP = {
    "parentheses": "(" * 4000 + "context.anchored" + ")" * 4000,
    "lists": "[" * 4000 + "1" + "]" * 4000 + " == 1",
    "records": "{a:" * 4000 + "1" + "}" * 4000 + " == {}",
    "calls": "decimal(" * 4000 + '"1.0"' + ")" * 4000 + ' == decimal("1.0")',
    "behind a comment": "// a\r" + "(" * 4000 + "context.anchored" + ")" * 4000,
    "and": "context.anchored" + " && context.anchored" * 2500,
    "dots": "context" + ".a" * 4000 + " == 1",
}


@pytest.mark.parametrize("kind", CAREFULLY_DEEP)
def test_what_would_overflow_cedars_stack_never_reaches_it(kind: str) -> None:
    """Cedar would end the process, not raise: this test would not fail, it would die."""
    with pytest.raises(SitePolicyError, match="nested brackets"):
        policy(one(CAREFULLY_DEEP[kind]))


@pytest.mark.parametrize(
    "condition",
    [
        "(" * 14 + "context.anchored" + ")" * 14,
        "[" * 14 + "1" + "]" * 14 + " != [2]",
        "context.anchored" + " && context.anchored" * 240,
        "if context.anchored then " * 200 + "true" + " else false" * 200,
        "!!!!context.anchored || " * 120 + "true",
    ],
)
def test_what_is_let_through_does_not_crash_a_small_stack(condition: str) -> None:
    ended: list[str] = []

    def judge() -> None:
        try:
            ended.append(str(policy(one(condition)).decide(asked())))
        except SitePolicyError as error:  # Cedar counts its own depth where it can
            ended.append(str(error))

    before = threading.stack_size(512 << 10)
    try:
        thread = threading.Thread(target=judge)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert len(ended) == 1


def test_too_many_policies_are_refused() -> None:
    with pytest.raises(SitePolicyError, match="200 policies"):
        policy(*(one("true", name=f"p{number}") for number in range(201)))


def test_statements_know_strings_and_comments() -> None:
    text = (
        '// a; b "\n@id("x;\\";y") permit (principal, action, resource); // end;\n\n  forbid (a) when { "//" };\n  tail'
    )
    found = statements(text, "f")
    assert [(one.line, one.text[:6]) for one in found] == [(2, '@id("x'), (4, "forbid"), (5, "tail")]
    assert statements("// nothing\n", "f") == ()


def test_an_empty_policy_denies_everything_and_says_so() -> None:
    empty = policy("// nothing is allowed here")
    assert not empty.decide(asked()).allowed
    assert [found.text for found in lints(empty)] == [
        "no policy permits train, evaluate, receive, releaseMetrics: always denied"
    ]


# The file system.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "site.cedar"
    path.write_bytes(default_text())
    path.chmod(0o644)
    return path


def test_a_file_of_ones_own_is_loaded(file: Path) -> None:
    assert SitePolicy.load(file).digest == SitePolicy.default().digest


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o622, 0o666])
def test_a_file_that_others_can_write_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(SitePolicyError) as caught:
        SitePolicy.load(file)
    assert "lets others change" in caught.value.what and caught.value.remedy == f"Run: chmod 644 {file}"


def test_a_folder_that_others_can_write_is_refused(file: Path) -> None:
    file.parent.chmod(0o777)
    try:
        with pytest.raises(SitePolicyError, match="lets others change"):
            SitePolicy.load(file)
        file.parent.chmod(0o1777)  # sticky: only owners rename
        SitePolicy.load(file)
    finally:
        file.parent.chmod(0o700)


def test_another_owner_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if file.stat().st_uid == 0:
        os.chown(file, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(SitePolicyError, match="owned by user"):
        SitePolicy.load(file)


def test_a_link_a_folder_and_a_large_file_are_refused(file: Path) -> None:
    link = file.with_name("link.cedar")
    link.symlink_to(file)
    huge = file.with_name("huge.cedar")
    huge.write_bytes(b"\n" * (LIMIT + 1))
    for path in (link, file.parent, huge):
        with pytest.raises(SitePolicyError):
            SitePolicy.load(path)
    with pytest.raises(FileNotFoundError):
        SitePolicy.load(file.with_name("none.cedar"))


def test_without_cedarpy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cedarpy", None)
    with pytest.raises(PolicyEngineError) as caught:
        SitePolicy.default()
    assert "counterseal[policy]" in caught.value.remedy and isinstance(caught.value, CountersealError)


# Warnings.


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (f'@id("one") {HEAD};', "permits training without asking"),
        (one("context.anchored"), "permits training without asking"),
        (one("context has privacy", head=HEAD), "permits private training at any epsilon"),
        (
            '@id("one") permit (principal, action == Counterseal::Action::"releaseMetrics", resource);',
            "permits exact metrics without asking",
        ),
        (one("false"), "always false"),
        (f'@id("one") {ANY} unless {{ true }};', "always false"),
        (one('context.federation == "\u043e\u0443rs"'), "beyond ASCII"),
    ],
)
def test_warnings(text: str, warning: str) -> None:
    found = lints(policy(text))
    assert any(warning in lint.text and lint.policy == "one" for lint in found), found


def test_no_warning_where_none_is_due() -> None:
    limited = one(
        'context has privacy && context.privacy.epsilon_run.lessThan(decimal("3.0"))', name="limited", head=HEAD
    )
    metrics = one(
        "resource.public",
        name="metrics",
        head='permit (principal, action == Counterseal::Action::"releaseMetrics", resource)',
    )
    both = '[Counterseal::Action::"evaluate", Counterseal::Action::"receive"]'
    spoken = f'@id("advice") @advice("Zürich") permit (principal, action in {both}, resource); // é'
    assert lints(policy(limited, metrics, spoken)) == ()


def test_the_schema_is_refused_like_a_policy() -> None:
    with pytest.raises(SitePolicyError):
        Rules("", "namespace {", (), file="schema")
    assert b"namespace Counterseal" in schema_text()
