"""What a peer's odd bytes once did, and must not do again: numbers that nobody read back, two spellings of one thing."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from counterseal.audit.events import ReceiptFile, RoundOpen, RunStart, peek_event
from counterseal.runtime.delivery import Opening
from counterseal.runtime.demo.idx import read_idx
from counterseal.runtime.errors import ConfigError, TransportError
from counterseal.runtime.sealed_json import seal_opening
from counterseal.runtime.server.server import Server
from counterseal.runtime.site.work import run_key
from counterseal.runtime.training.seam import Array, Trainer, TrainingResult
from counterseal.runtime.transports.frames import read_frame
from counterseal.trust.errors import WeakKeyError
from counterseal.trust.keys.signing import SoftwareSigner, VerifyingKey

from ..federation import DirectTransport, Federation, run_config, trainer_of


class _Diverged:
    """A trainer whose loss is beyond 2^53: written as digits, it looks like an integer that JSON peers do not share."""

    def __init__(self, inner: Trainer) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def train(self, parameters: Mapping[str, Array], **about: Any) -> TrainingResult:
        return replace(self._inner.train(parameters, **about), metrics={"loss": 1e17})

    def evaluate(self, parameters: Mapping[str, Array]) -> dict[str, float]:
        return {**self._inner.evaluate(parameters), "loss": 4.788107380207481e16}


def test_a_diverging_site_is_still_heard(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    sites = {
        name: federation.site(name, trainers=lambda config, name=name: _Diverged(trainer_of(config, name)))
        for name in federation.sites
    }
    transport = DirectTransport(sites)
    config = run_config(rounds=1)
    with federation.server(transport) as server:
        result = server.run(config, federation.first_parameters(config))
    for site in sites.values():
        site.close()
    assert (result.outcome, result.versions) == ("completed", 1)
    assert result.cosigners == federation.sites


@pytest.mark.parametrize("number", ["9363670285325648.5", "-1e18"])
def test_a_site_cannot_stop_the_server_with_a_number(number: str, tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    sites = {name: federation.site(name) for name in federation.sites}
    liar = federation.sites[0]

    held: list[Server] = []
    changed: list[str] = []

    def change(site: str, answer: bytes) -> bytes:
        value = json.loads(answer)
        if site != liar or value["metrics"] is None:
            return answer
        log = held[0].log
        run = next(one for i in range(log.size) if isinstance(one := peek_event(log.entry(i)), RunStart))
        opening = Opening(value=float(number), salt="0" * 64)
        where = {"federation": run.federation, "ticket": value["ticket"]}
        value["metrics"] = seal_opening(opening, run_key(run), purpose="metrics", **where)
        changed.append(site)
        return json.dumps(value).encode()

    transport = DirectTransport(sites, answers=change)
    config = run_config(rounds=1, round_seconds=2)
    with federation.server(transport) as server:
        held.append(server)
        result = server.run(config, federation.first_parameters(config))
    for site in sites.values():
        site.close()
    assert changed and result.outcome == "completed"


@pytest.mark.parametrize("algorithm", ["p384", "p256"])
def test_a_key_has_one_spelling(algorithm: Any) -> None:
    """Else a revoked key comes back under the name of its compressed form."""
    signer = SoftwareSigner.generate(algorithm)
    key: Any = signer.private
    compressed = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    plain = signer.public.public
    for other in (compressed, bytes([6 + plain[-1] % 2]) + plain[1:], plain + b"\0", plain[:-1], b"", b"\0"):
        with pytest.raises(WeakKeyError):
            VerifyingKey(algorithm, other)
    assert VerifyingKey(algorithm, plain) == signer.public


@pytest.mark.parametrize(
    "head", [b"05\n", b"+5\n", b"5\r\n", b" 5\n", b"\n", b"-1\n", b"5", b"00\n", b"6000001\n", b"1" * 16, b"5_0\n"]
)
def test_a_frame_has_one_spelling(head: bytes) -> None:
    with pytest.raises(TransportError):
        read_frame(io.BytesIO(head + b"hello" * 20))


def test_a_promise_of_a_gigabyte_takes_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "images"
    path.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 1 << 10, 1 << 10, 1 << 10) + b"few")
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match="not as long"):
            read_idx(path, dimensions=3)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


_ME = "site-a@fed.example"


def test_an_aborted_attempt_in_the_delivery_stops_no_site(tmp_path: Path) -> None:
    """Whoever carries deliveries can add any leaf that is truly in the log; at a second round.open the site stopped."""
    federation = Federation.make(tmp_path / "fed", 3)
    sites = {name: federation.site(name) for name in federation.sites}
    held: list[Server] = []
    merged: list[int] = []

    def meddle(site: str, delivery: bytes) -> bytes | None:
        value = json.loads(delivery)
        opened = [one for leaf in value["leaves"] if isinstance(one := peek_event(leaf["leaf"].encode()), RoundOpen)]
        if [one.attempt for one in opened] == [0]:
            return None  # the first attempt is lost on the way, and aborted
        if opened and site == _ME:
            log, size = held[0].log, int(value["checkpoint"].split("\n")[1])
            first = next(i for i in range(size) if isinstance(peek_event(log.entry(i)), RoundOpen))
            proof = [one.hex() for one in log.inclusion(first, size)]
            value["leaves"].append({"index": first, "leaf": log.entry(first).decode(), "proof": proof})
            merged.append(first)
        return json.dumps(value).encode()

    config = run_config(rounds=1, round_seconds=2, retries=2)
    with federation.server(DirectTransport(sites, meddle=meddle)) as server:
        held.append(server)
        result = server.run(config, federation.first_parameters(config))
    stopped = sites[_ME]._state.halted
    for site in sites.values():
        site.close()
    assert merged
    assert stopped is None
    assert (result.outcome, result.cosigners) == ("completed", federation.sites)


@pytest.mark.parametrize("field", ["expires", "store"])
@pytest.mark.parametrize("name", ["manifest", "payload"])
def test_a_grant_that_does_not_open_decides_nothing(name: str, field: str, tmp_path: Path) -> None:
    """An expired or mangled grant once became a receipt that said `failed` for good; the next delivery has another."""
    federation = Federation.make(tmp_path / "fed", 3)
    sites = {one: federation.site(one) for one in federation.sites}
    mangled: list[str] = []

    def meddle(site: str, delivery: bytes) -> bytes:
        value = json.loads(delivery)
        if site == _ME and value["grants"][name] and not mangled:
            mangled.append(value["ticket"])
            value["grants"][name][field] = {"expires": 0, "store": "s3"}[field]
        return json.dumps(value).encode()

    config = run_config(rounds=1)
    with federation.server(DirectTransport(sites, meddle=meddle)) as server:
        result = server.run(config, federation.first_parameters(config))
        receipts = [
            one for i in range(server.log.size) if isinstance(one := peek_event(server.log.entry(i)), ReceiptFile)
        ]
    for site in sites.values():
        site.close()
    assert mangled and result.outcome == "completed"
    assert {(one.actor, one.outcome) for one in receipts} == {(one, "done") for one in federation.sites}
