"""The cloud's connection to the broker: what it publishes waits while the broker is away, and goes out in order."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import pika
from pika.exceptions import AMQPError

__all__ = ["Link"]

_EXCHANGES = ("tasks", "results", "heartbeats")


class Link(threading.Thread):
    """One connection on a thread of its own; other threads leave messages in its outbox.

    ``consumers`` maps the queues to listen on to what takes a body; they are acknowledged after that.
    """

    def __init__(self, url: str, consumers: Mapping[str, Callable[[bytes], None]]) -> None:
        super().__init__(daemon=True, name="link")
        self._url = url
        self._consumers = consumers
        self._outbox: deque[Callable[[Any], None]] = deque()
        self._changed = threading.Condition()
        self._connection: Any = None
        self._stopping = False

    def queue(self, name: str, *, empty: bool = False) -> None:
        """Declare a queue, and drop what an earlier owner left in it if it should be empty."""

        def work(channel: Any) -> None:
            channel.queue_declare(name, durable=True)
            if empty:
                channel.queue_purge(name)

        self._leave(work)

    def publish(self, queue: str, body: bytes, **properties: Any) -> None:
        """Leave a persistent message for ``queue``."""

        def work(channel: Any) -> None:
            channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2, **properties))

        self._leave(work)

    def settle(self, patience: float = 5.0) -> None:
        """Wait until all that was left is with the broker, as long as it is there at all."""
        with self._changed:
            self._changed.wait_for(lambda: not self._outbox, patience)

    def stop(self) -> None:
        """End the connection."""
        self._stopping = True
        self._wake()
        self.join(5)

    def _leave(self, work: Callable[[Any], None]) -> None:
        with self._changed:
            self._outbox.append(work)
        self._wake()

    def _wake(self) -> None:
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(AMQPError):
                connection.add_callback_threadsafe(lambda: None)

    def run(self) -> None:
        while not self._stopping:
            try:
                with contextlib.closing(pika.BlockingConnection(pika.URLParameters(self._url))) as connection:
                    self._work(connection)
            except (AMQPError, OSError):
                self._connection = None
                time.sleep(0.2)

    def _work(self, connection: Any) -> None:
        channel = connection.channel()
        channel.confirm_delivery()
        for name in _EXCHANGES:
            channel.exchange_declare(name, exchange_type="direct", durable=True)
        listener = connection.channel()
        for name, take in self._consumers.items():
            channel.queue_declare(name, durable=True)
            channel.queue_bind(name, name, name)
            listener.basic_consume(name, self._taker(take))
        self._connection = connection
        while not self._stopping:
            self._drain(channel)
            connection.process_data_events(time_limit=1)

    def _taker(self, take: Callable[[bytes], None]) -> Callable[..., None]:
        def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            take(body)
            channel.basic_ack(method.delivery_tag)

        return on_message

    def _drain(self, channel: Any) -> None:
        while self._outbox:
            self._outbox[0](channel)
            with self._changed:
                self._outbox.popleft()
                self._changed.notify_all()
