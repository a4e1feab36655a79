"""The broker's queues: what waits, who takes it in turn, and what of it outlives a restart."""

from __future__ import annotations

import base64
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pika import spec

if TYPE_CHECKING:
    from .amqp_channel import Channel

__all__ = ["Consumer", "Message", "Queue", "Queues"]

_PERSISTENT = 2


@dataclass
class Message:
    exchange: str
    key: str
    properties: Any
    body: bytes
    redelivered: bool = False

    def saved(self) -> dict[str, str]:
        """Return the message as JSON."""
        properties = b"".join(self.properties.encode())
        return {
            "exchange": self.exchange,
            "key": self.key,
            "properties": base64.b64encode(properties).decode(),
            "body": base64.b64encode(self.body).decode(),
        }

    @classmethod
    def load(cls, saved: dict[str, str]) -> Message:
        """Return the message that `saved` wrote; it counts as redelivered, for nobody knows whether it was delivered."""
        properties = spec.BasicProperties()
        properties.decode(base64.b64decode(saved["properties"]))
        return cls(saved["exchange"], saved["key"], properties, base64.b64decode(saved["body"]), redelivered=True)


@dataclass(eq=False)
class Consumer:
    channel: Channel
    queue: Queue
    tag: str
    no_ack: bool
    exclusive: bool


@dataclass(eq=False)
class Queue:
    name: str
    durable: bool
    messages: deque[Message] = field(default_factory=deque)
    consumers: deque[Consumer] = field(default_factory=deque)

    def pump(self) -> None:
        """Hand messages to consumers in turn, as long as one of them takes any."""
        idle = 0
        while self.messages and idle < len(self.consumers):
            consumer = self.consumers[0]
            self.consumers.rotate(-1)
            if consumer.channel.is_full():
                idle += 1
                continue
            idle = 0
            consumer.channel.deliver(consumer, self.messages.popleft())


class Queues:
    """All queues and exchanges, behind one lock."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.by_name: dict[str, Queue] = {}
        self.exchanges: dict[str, dict[str, list[str]]] = {}

    def route(self, exchange: str, key: str) -> list[Queue] | None:
        """Return the queues that a message goes to, or None when there is no such exchange."""
        if exchange == "":
            return [self.by_name[key]] if key in self.by_name else []
        if exchange not in self.exchanges:
            return None
        return [self.by_name[name] for name in self.exchanges[exchange].get(key, []) if name in self.by_name]

    def save(self, file: Path | None) -> None:
        """Write what is durable to ``file``, if there is one, and forget everything."""
        with self.lock:
            durable = {queue.name: queue.messages for queue in self.by_name.values() if queue.durable}
            kept = {
                name: [each.saved() for each in messages if each.properties.delivery_mode == _PERSISTENT]
                for name, messages in durable.items()
            }
            if file is not None:
                file.write_text(json.dumps({"exchanges": self.exchanges, "queues": kept}))
            self.by_name.clear()
            self.exchanges = {}

    def load(self, file: Path | None) -> None:
        """Read what `save` wrote."""
        if file is None or not file.exists():
            return
        saved = json.loads(file.read_text())
        with self.lock:
            self.exchanges = saved["exchanges"]
            for name, messages in saved["queues"].items():
                self.by_name[name] = Queue(name, True, deque(Message.load(each) for each in messages))
