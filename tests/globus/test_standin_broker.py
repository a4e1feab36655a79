"""The stand-in's broker under pika: what endpoints and clients of Compute rely on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.exceptions import AMQPError, ChannelClosedByBroker, UnroutableError

from counterseal.tests.standin.broker import Broker

pytestmark = pytest.mark.processes

LASTING = pika.BasicProperties(delivery_mode=2, headers={"task": "1"}, timestamp=5)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(file=tmp_path / "kept.json") as made:
        yield made


@pytest.fixture
def connections(broker: Broker) -> Iterator[list[Any]]:
    made: list[Any] = []
    yield made
    for each in made:
        with contextlib.suppress(AMQPError):  # a restart of the broker ended it, which pika learns now
            each.close()


def channel(broker: Broker, connections: list[Any]) -> Any:
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    connections.append(connection)
    made = connection.channel()
    made.confirm_delivery()
    return made


def take(channel: Any, queue: str) -> tuple[Any, Any, bytes | None]:
    """Return the next message of ``queue``; three times None when there is none."""
    method, properties, body = next(channel.consume(queue, inactivity_timeout=1))
    return method, properties, body


def test_messages_of_any_size_pass_whole_and_through_exchanges(broker: Broker, connections: list[Any]) -> None:
    ours, body = channel(broker, connections), os.urandom(3_000_000)
    ours.exchange_declare("results", exchange_type="direct", durable=True)
    ours.queue_declare("inbox", durable=True)
    ours.queue_bind("inbox", "results", "key")
    for each in (body, b""):
        ours.basic_publish("results", "key", each, LASTING, mandatory=True)
        method, properties, received = take(ours, "inbox")
        assert received == each and properties.headers == {"task": "1"} and properties.timestamp == 5
        ours.basic_ack(method.delivery_tag)
    ours.cancel()
    with pytest.raises(UnroutableError):
        ours.basic_publish("results", "elsewhere", b"", mandatory=True)


def test_what_nobody_acknowledged_comes_again_and_first(broker: Broker, connections: list[Any]) -> None:
    ours, other = channel(broker, connections), channel(broker, connections)
    ours.queue_declare("tasks", durable=True)
    for text in (b"1", b"2", b"3"):
        ours.basic_publish("", "tasks", text, LASTING)
    method, _, body = take(other, "tasks")
    assert body == b"1" and not method.redelivered
    connections[1].close()
    method, _, body = take(ours, "tasks")
    assert body == b"1" and method.redelivered


def test_an_exclusive_consumer_is_the_only_one(broker: Broker, connections: list[Any]) -> None:
    ours, other = channel(broker, connections), channel(broker, connections)
    ours.queue_declare("tasks", durable=True)
    ours.basic_consume("tasks", lambda *_: None, exclusive=True)
    with pytest.raises(ChannelClosedByBroker) as refused:
        other.basic_consume("tasks", lambda *_: None)
    assert refused.value.reply_code == 403
    with pytest.raises(ChannelClosedByBroker) as missing:
        channel(broker, connections).queue_declare("nowhere", passive=True)
    assert missing.value.reply_code == 404


def test_an_orderly_restart_keeps_what_is_durable(broker: Broker, connections: list[Any]) -> None:
    ours = channel(broker, connections)
    ours.exchange_declare("results", exchange_type="direct", durable=True)
    ours.queue_declare("lasting", durable=True)
    ours.queue_declare("passing", durable=False)
    ours.queue_bind("lasting", "results", "key")
    ours.basic_publish("", "lasting", b"delivered, not acknowledged", LASTING)
    assert take(ours, "lasting")[2]
    ours.basic_publish("results", "key", b"kept", LASTING)
    ours.basic_publish("results", "key", b"not persistent")
    ours.basic_publish("", "passing", b"in a passing queue", LASTING)
    port = broker.port
    broker.close()
    broker.open()
    assert broker.port == port
    ours = channel(broker, connections)
    bodies = [take(ours, "lasting")[2] for _ in range(2)]
    assert bodies == [b"delivered, not acknowledged", b"kept"]
    assert take(ours, "lasting")[2] is None
    ours.cancel()
    ours.basic_publish("results", "key", b"bound still", LASTING, mandatory=True)
    with pytest.raises(ChannelClosedByBroker):
        ours.queue_declare("passing", passive=True)
