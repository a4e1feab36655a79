"""Results from hostile sites: what the SDK's own serializer does with them, and that nothing of ours runs them."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import dill  # type: ignore[import-untyped]
import pytest
from globus_compute_sdk.errors import DeserializationError
from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect
from hypothesis import given
from hypothesis import strategies as st

from counterseal.runtime.delivery import DELIVERY_LIMIT
from counterseal.runtime.transports.compute.function import FAILURES
from counterseal.runtime.transports.compute.results import INFRASTRUCTURE, Outcome, read_outcome, read_result

MALFORMED = Outcome("done", failure="result_malformed")


class Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def packed(value: Any) -> str:
    return "11\n" + json.dumps(value)


def of_our_function(answer: bytes) -> str:
    return packed(json.dumps({"answer": base64.b64encode(answer).decode()}))


def traps(mark: Path) -> dict[str, str]:
    pickled = base64.b64encode(pickle.dumps(Trap(mark))).decode()
    assert dill.loads(base64.b64decode(pickled)) is None and mark.exists()
    mark.unlink()
    source = f"answer:open({str(mark)!r}, 'w').close()\ndef answer(): pass\n"
    return {
        "data, by dill": f"00\n{pickled}",
        "code, by dill": f"01\n{pickled}",
        "code, by pickle": f"02\n{pickled}",
        "source, by dill": f"04\n{pickled}",
        "source": f"st\n{source}",
        "source of dill": f"sd\n{source}",
        "several": f"13\n{len(pickled) + 3}\n00\n{pickled}",
        "several codes": f"12\n{len(source) + 3}\nst\n{source}",
    }


def test_no_result_runs_anything(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for trap in traps(mark).values():
        assert read_result(trap) == MALFORMED
        assert read_outcome({"task_id": "t", "status": "success", "result": trap}) == MALFORMED
        assert read_outcome({"status": "failed", "exception": trap}) == Outcome("failed", failure="task_failed")
    assert not mark.exists()


def test_the_sdks_restricted_serializer_would_have(tmp_path: Path) -> None:
    """Why it is not used: its list must hold a strategy for code, and a result may say that it is code."""
    mark = tmp_path / "mark"
    kinds = traps(mark)
    allowed: Any = ComputeSerializer(allowed_deserializer_types=[JSONData, PureSourceTextInspect])
    with pytest.raises(DeserializationError):
        allowed.deserialize(kinds["data, by dill"])
    assert not mark.exists()
    allowed.deserialize(kinds["source"])
    assert mark.exists()


def test_an_answer_comes_through_byte_by_byte() -> None:
    answer = bytes(range(256)) * 40
    assert read_result(of_our_function(answer)) == Outcome("done", answer=answer)
    longest = bytes(DELIVERY_LIMIT)
    assert read_result(of_our_function(longest)).answer == longest


@pytest.mark.parametrize("code", sorted(FAILURES))
def test_the_functions_own_codes_come_through(code: str) -> None:
    assert read_result(packed(json.dumps({"failure": code}))) == Outcome("done", failure=code)


@pytest.mark.parametrize(
    "result",
    [
        None,
        7,
        "",
        "11",
        "11\n",
        "11\nnull",
        packed({"answer": "YQ=="}),
        packed("text"),
        packed("[]"),
        packed("{}"),
        packed('{"answer": "YQ==", "failure": "site_died"}'),
        packed('{"answer": "YQ==", "answer": "Yg=="}'),
        packed('{"answer": "YQ"}'),
        packed('{"answer": "Y Q=="}'),
        packed('{"answer": ""}'),
        packed('{"answer": null}'),
        packed('{"failure": "outage"}'),
        packed('{"failure": "Traceback (most recent call last): patient 42"}'),
        packed("[" * 100_000),
        "11\n" + "[" * 100_000,
        "11\n\ud800",
        of_our_function(bytes(DELIVERY_LIMIT + 1)),
    ],
)
def test_anything_else_is_malformed(result: Any) -> None:
    assert read_result(result) == MALFORMED


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Another instance of this endpoint is running (PATIENT-42)", "endpoint_not_ready"),
        ("parsl.executors.high_throughput.errors.WorkerLost: Task failure due to loss of worker 0", "worker_lost"),
        ("parsl.executors.high_throughput.errors.ManagerLost: Task failure", "manager_lost"),
        ("concurrent.futures.process.BrokenProcessPool: A process in the process pool", "worker_lost"),
        ("MaxResultSizeExceeded: Task result of 11000000B exceeded", "answer_too_large"),
        ("FUNCTION_NOT_ALLOWED: not permitted", "endpoint_refused"),
        ("ValueError: row PATIENT-42 is NaN", "task_failed"),
        (None, "task_failed"),
        (["x"], "task_failed"),
    ],
)
def test_a_remote_exception_becomes_one_code(text: Any, code: str) -> None:
    found = read_outcome({"status": "failed", "completion_t": "1", "exception": text})
    assert found == Outcome("failed", failure=code)
    assert "PATIENT" not in repr(found)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"status": "waiting-for-ep"}, Outcome("pending")),
        ({"status": "running"}, Outcome("pending")),
        ({}, Outcome("pending")),
        ("rubbish", Outcome("pending")),
        ({"status": "failed", "reason": "unknown task id"}, None),
        ({"status": "failed", "completion_t": "1"}, Outcome("failed", failure="task_failed")),
        ({"status": "success", "completion_t": "1", "reason": "purged"}, Outcome("failed", failure="result_missing")),
    ],
)
def test_what_compute_says_of_a_task(document: Any, expected: Outcome | None) -> None:
    assert read_outcome(document) == expected
    if expected is not None and expected.failure is not None:
        assert expected.failure in INFRASTRUCTURE


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.one_of(st.text(), st.binary(), _json, _json.map(packed), _json.map(json.dumps).map(packed)))
def test_no_result_raises(result: Any) -> None:
    found = read_result(result)
    assert found.state == "done" and (found.answer is None) == (found.failure is not None)
    assert read_outcome(result) is None or read_outcome({"result": result}) == found


@given(st.binary(min_size=1, max_size=500))
def test_what_our_function_packs_is_read(answer: bytes) -> None:
    assert read_result(of_our_function(answer)).answer == answer
