"""Several outputs of one pass: each whole and in order, or none."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from counterseal.runtime.server.rounds.fan import Fan


class Stopped(Exception):
    """A branch's own failure."""


def joined(chunks: Iterator[bytes]) -> bytes:
    return b"".join(chunks)


def test_every_branch_sees_all_that_was_pushed_in_order() -> None:
    buffer = np.zeros(4, np.uint8)
    with Fan(3) as fan:
        branches = [fan.branch(joined) for _ in range(3)]
        for number in range(50):
            for shift, branch in enumerate(branches):
                buffer[:] = number + shift  # the producer's own buffer, used again at once
                branch.push(buffer.data)
        for branch in branches:
            branch.end()
        found = [branch.result() for branch in branches]
    assert found == [bytes(number + shift for number in range(50) for _ in range(4)) for shift in range(3)]


def test_a_branch_is_never_far_behind() -> None:
    go, taken = threading.Event(), list[int]()

    def slow(chunks: Iterator[bytes]) -> int:
        go.wait()
        taken.extend(len(chunk) for chunk in chunks)
        return len(taken)

    with Fan(1) as fan:
        branch = fan.branch(slow)
        pushed: list[int] = []

        def produce() -> None:
            for number in range(20):
                branch.push(memoryview(bytes(number)))
                pushed.append(number)
            branch.end()

        producer = threading.Thread(target=produce)
        producer.start()
        producer.join(0.2)
        assert producer.is_alive() and len(pushed) == 2
        go.set()
        producer.join()
        assert branch.result() == 20


def test_a_failing_branch_stops_the_producer_with_its_own_error() -> None:
    def fails(chunks: Iterator[bytes]) -> None:
        next(chunks)
        raise Stopped

    with pytest.raises(Stopped), Fan(2) as fan:
        fan.branch(joined)
        branch = fan.branch(fails)
        for _ in range(1000):
            branch.push(memoryview(b"x"))


def test_a_branch_that_ends_early_is_a_fault() -> None:
    with pytest.raises(RuntimeError, match="before its input"), Fan(1) as fan:
        branch = fan.branch(lambda chunks: next(chunks))
        for _ in range(1000):
            branch.push(memoryview(b"x"))


def test_a_pass_that_is_given_up_ends_every_branch_without_a_result() -> None:
    ends: list[str] = []

    def noted(chunks: Iterator[bytes]) -> None:
        try:
            joined(chunks)
        except Exception as error:
            ends.append(type(error).__name__)
            raise
        ends.append("whole")

    with pytest.raises(Stopped), Fan(3) as fan:
        one, two, three = (fan.branch(noted) for _ in range(3))
        one.push(memoryview(b"x"))
        two.end()
        two.result()
        three.push(memoryview(b"x"))
        three.push(memoryview(b"y"))
        raise Stopped
    assert sorted(ends) == ["_GivenUpError", "_GivenUpError", "whole"]
