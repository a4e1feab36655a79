"""An AMQP 0-9-1 broker in memory, on pika's own codecs: what Globus Compute's endpoints and client library ask of RabbitMQ.

It knows direct exchanges, queues, consumers (also exclusive ones), prefetch, acknowledgements with redelivery, publisher
confirms and returned messages; it knows no users, no lifetimes, no limits, no transactions. `Broker.close` writes durable
queues with their persistent messages to a file, what was delivered but not acknowledged included, and `Broker.open` reads
it: an orderly restart loses nothing that RabbitMQ would keep. A killed broker loses everything; RabbitMQ would not.
"""

from __future__ import annotations

import argparse
import base64
import json
import socket
import socketserver
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pika import frame, spec

from .lifetime import block_signals, wait_for_the_end

__all__ = ["Broker"]

_FRAME = 131_072
_PERSISTENT = 2


@dataclass
class _Message:
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
    def load(cls, saved: dict[str, str]) -> _Message:
        """Return the message that `saved` wrote; it counts as redelivered, for nobody knows whether it was delivered."""
        properties = spec.BasicProperties()
        properties.decode(base64.b64decode(saved["properties"]))
        return cls(saved["exchange"], saved["key"], properties, base64.b64decode(saved["body"]), redelivered=True)


@dataclass(eq=False)
class _Consumer:
    channel: _Channel
    queue: _Queue
    tag: str
    no_ack: bool
    exclusive: bool


@dataclass(eq=False)
class _Queue:
    name: str
    durable: bool
    messages: deque[_Message] = field(default_factory=deque)
    consumers: deque[_Consumer] = field(default_factory=deque)

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


class _Channel:
    """One channel of one connection; all of it runs under the broker's lock."""

    def __init__(self, broker: Broker, number: int, send: Callable[[bytes], None]) -> None:
        self._broker = broker
        self._number = number
        self._send_bytes = send
        self._consumers: dict[str, _Consumer] = {}
        self._unacknowledged: dict[int, tuple[_Queue, _Message]] = {}
        self._delivered = 0
        self._prefetch = 0
        self._confirmed: int | None = None
        self._publishing: tuple[Any, Any, bytearray] | None = None
        self._failed = False

    def is_full(self) -> bool:
        """Return whether prefetch forbids another delivery."""
        return bool(self._prefetch) and len(self._unacknowledged) >= self._prefetch

    def deliver(self, consumer: _Consumer, message: _Message) -> None:
        """Send ``message`` to ``consumer``."""
        self._delivered += 1
        if not consumer.no_ack:
            self._unacknowledged[self._delivered] = (consumer.queue, message)
        method = spec.Basic.Deliver(consumer.tag, self._delivered, message.redelivered, message.exchange, message.key)
        self._content(method, message)

    def release(self) -> None:
        """Let go of everything: messages that nobody acknowledged return to the head of their queues."""
        for consumer in self._consumers.values():
            consumer.queue.consumers.remove(consumer)
        self._consumers.clear()
        waiting = list(self._unacknowledged.values())
        self._unacknowledged.clear()
        for queue, message in reversed(waiting):
            message.redelivered = True
            queue.messages.appendleft(message)
        for queue in {queue.name: queue for queue, _ in waiting}.values():
            queue.pump()

    def take(self, piece: Any) -> None:
        """Take a frame from the client."""
        if isinstance(piece, frame.Method):
            self._method(piece.method)
        elif self._failed or self._publishing is None:
            return
        elif isinstance(piece, frame.Header):
            self._publishing = (self._publishing[0], piece, bytearray())
            self._publish_if_whole()
        else:
            self._publishing[2].extend(piece.fragment)
            self._publish_if_whole()

    def _method(self, method: Any) -> None:
        if self._failed and not isinstance(method, spec.Channel.Close | spec.Channel.CloseOk):
            return
        handler = _METHODS.get(type(method))
        if handler is None:
            self._fail(540, f"NOT_IMPLEMENTED - {method.NAME}", method)
        else:
            handler(self, method)

    def _reply(self, method: Any) -> None:
        self._send_bytes(frame.Method(self._number, method).marshal())

    def _content(self, method: Any, message: _Message) -> None:
        parts = [
            frame.Method(self._number, method).marshal(),
            frame.Header(self._number, len(message.body), message.properties).marshal(),
        ]
        step = _FRAME - 8
        for start in range(0, len(message.body), step):
            parts.append(frame.Body(self._number, message.body[start : start + step]).marshal())
        self._send_bytes(b"".join(parts))

    def _fail(self, code: int, text: str, method: Any) -> None:
        self.release()
        self._failed = True
        self._reply(spec.Channel.Close(code, text, method.INDEX >> 16, method.INDEX & 0xFFFF))

    # Methods -------------------------------------------------------------------------------------------------------

    def _open(self, method: Any) -> None:
        self._reply(spec.Channel.OpenOk())

    def _close(self, method: Any) -> None:
        self.release()
        self._failed = False
        self._reply(spec.Channel.CloseOk())

    def _close_ok(self, method: Any) -> None:
        self._failed = False

    def _confirm(self, method: Any) -> None:
        self._confirmed = 0
        self._reply(spec.Confirm.SelectOk())

    def _qos(self, method: Any) -> None:
        self._prefetch = method.prefetch_count
        self._reply(spec.Basic.QosOk())

    def _declare_exchange(self, method: Any) -> None:
        if method.passive and method.exchange not in self._broker.exchanges:
            self._fail(404, f"NOT_FOUND - no exchange '{method.exchange}'", method)
            return
        self._broker.exchanges.setdefault(method.exchange, {})
        if not method.nowait:
            self._reply(spec.Exchange.DeclareOk())

    def _declare_queue(self, method: Any) -> None:
        if method.passive and method.queue not in self._broker.queues:
            self._fail(404, f"NOT_FOUND - no queue '{method.queue}'", method)
            return
        queue = self._broker.queues.setdefault(method.queue, _Queue(method.queue, method.durable))
        if not method.nowait:
            self._reply(spec.Queue.DeclareOk(queue.name, len(queue.messages), len(queue.consumers)))

    def _queue(self, method: Any) -> _Queue | None:
        queue = self._broker.queues.get(method.queue)
        if queue is None:
            self._fail(404, f"NOT_FOUND - no queue '{method.queue}'", method)
        return queue

    def _bind(self, method: Any) -> None:
        if self._queue(method) is not None:
            bound = self._broker.exchanges[method.exchange].setdefault(method.routing_key, [])
            if method.queue not in bound:
                bound.append(method.queue)
            self._reply(spec.Queue.BindOk())

    def _purge(self, method: Any) -> None:
        queue = self._queue(method)
        if queue is not None:
            count = len(queue.messages)
            queue.messages.clear()
            self._reply(spec.Queue.PurgeOk(count))

    def _delete(self, method: Any) -> None:
        queue = self._broker.queues.pop(method.queue, None)
        self._reply(spec.Queue.DeleteOk(len(queue.messages) if queue else 0))

    def _consume(self, method: Any) -> None:
        queue = self._queue(method)
        if queue is None:
            return
        if any(each.exclusive for each in queue.consumers) or (method.exclusive and queue.consumers):
            self._fail(403, f"ACCESS_REFUSED - queue '{method.queue}' in exclusive use", method)
            return
        tag = method.consumer_tag or f"tag-{len(self._consumers)}-{id(self)}"
        consumer = _Consumer(self, queue, tag, method.no_ack, method.exclusive)
        self._consumers[tag] = consumer
        queue.consumers.append(consumer)
        self._reply(spec.Basic.ConsumeOk(tag))
        queue.pump()

    def _cancel(self, method: Any) -> None:
        consumer = self._consumers.pop(method.consumer_tag, None)
        if consumer is not None:
            consumer.queue.consumers.remove(consumer)
        if not method.nowait:
            self._reply(spec.Basic.CancelOk(method.consumer_tag))

    def _settle(self, method: Any) -> None:
        """An acknowledgement, or a refusal that may put the message back."""
        last = method.delivery_tag
        tags = [last] if not getattr(method, "multiple", False) else [t for t in self._unacknowledged if t <= last]
        for tag in tags:
            queue, message = self._unacknowledged.pop(tag, (None, None))
            if queue is None or message is None:
                continue
            if not isinstance(method, spec.Basic.Ack) and method.requeue:
                message.redelivered = True
                queue.messages.appendleft(message)
            queue.pump()

    def _begin_publish(self, method: Any) -> None:
        self._publishing = (method, None, bytearray())

    def _publish_if_whole(self) -> None:
        if self._publishing is None:
            return
        method, header, body = self._publishing
        if header is None or len(body) < header.body_size:
            return
        self._publishing = None
        queues = self._broker.route(method.exchange, method.routing_key)
        if queues is None:
            self._fail(404, f"NOT_FOUND - no exchange '{method.exchange}'", method)
            return
        message = _Message(method.exchange, method.routing_key, header.properties, bytes(body))
        if not queues and method.mandatory:
            self._content(spec.Basic.Return(312, "NO_ROUTE", method.exchange, method.routing_key), message)
        for queue in queues:
            queue.messages.append(_Message(message.exchange, message.key, message.properties, message.body))
            queue.pump()
        if self._confirmed is not None:
            self._confirmed += 1
            self._reply(spec.Basic.Ack(self._confirmed))


_METHODS: dict[type, Callable[[_Channel, Any], None]] = {
    spec.Channel.Open: _Channel._open,
    spec.Channel.Close: _Channel._close,
    spec.Channel.CloseOk: _Channel._close_ok,
    spec.Confirm.Select: _Channel._confirm,
    spec.Basic.Qos: _Channel._qos,
    spec.Exchange.Declare: _Channel._declare_exchange,
    spec.Queue.Declare: _Channel._declare_queue,
    spec.Queue.Bind: _Channel._bind,
    spec.Queue.Purge: _Channel._purge,
    spec.Queue.Delete: _Channel._delete,
    spec.Basic.Consume: _Channel._consume,
    spec.Basic.Cancel: _Channel._cancel,
    spec.Basic.Ack: _Channel._settle,
    spec.Basic.Nack: _Channel._settle,
    spec.Basic.Reject: _Channel._settle,
    spec.Basic.Publish: _Channel._begin_publish,
}


class _Connection(socketserver.BaseRequestHandler):
    """One client's connection, on a thread of its own."""

    server: _Server

    def setup(self) -> None:
        self._channels: dict[int, _Channel] = {}
        self._writing = threading.Lock()
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle(self) -> None:
        try:
            self._serve()
        except OSError:
            return  # the client went

    def _serve(self) -> None:
        received = b""
        while len(received) < 8:
            received += self._receive()
        received = received[8:]
        self._send_method(_START)
        while True:
            used, piece = frame.decode_frame(received)
            if piece is None:
                received += self._receive()
                continue
            received = received[used:]
            if not self._take(piece):
                return

    def _receive(self) -> bytes:
        data: bytes = self.request.recv(1 << 20)
        if not data:
            raise ConnectionResetError
        return data

    def _take(self, piece: Any) -> bool:
        """Act on a frame; return whether the connection goes on."""
        if isinstance(piece, frame.Heartbeat):
            self._send(frame.Heartbeat().marshal())
            return True
        if piece.channel_number == 0:
            return self._handshake(piece.method)
        with self.server.broker.lock:
            number = piece.channel_number
            if number not in self._channels:
                self._channels[number] = _Channel(self.server.broker, number, self._send)
            self._channels[number].take(piece)
        return True

    def _handshake(self, method: Any) -> bool:
        if isinstance(method, spec.Connection.StartOk):
            self._send_method(spec.Connection.Tune(2047, _FRAME, 0))
        elif isinstance(method, spec.Connection.Open):
            self._send_method(spec.Connection.OpenOk())
        elif isinstance(method, spec.Connection.Close):
            self._send_method(spec.Connection.CloseOk())
            return False
        return True

    def _send_method(self, method: Any) -> None:
        self._send(frame.Method(0, method).marshal())

    def _send(self, data: bytes) -> None:
        try:
            with self._writing:
                self.request.sendall(data)
        except OSError:
            return  # our own reading notices, and puts back what was not acknowledged

    def finish(self) -> None:
        with self.server.broker.lock:
            for channel in self._channels.values():
                channel.release()
            self._channels.clear()


_START = spec.Connection.Start(
    server_properties={
        "product": "stand-in",
        "capabilities": {"publisher_confirms": True, "basic.nack": True, "consumer_cancel_notify": True},
    },
    mechanisms="PLAIN",
    locales="en_US",
)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, port: int, broker: Broker) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.broker = broker
        self._sockets: set[socket.socket] = set()
        self._served = threading.Condition()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._served:
            self._sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._served:
            self._sockets.discard(request)
            self._served.notify_all()
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End all connections and wait until their channels have put everything back."""
        with self._served:
            for each in list(self._sockets):
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # it ended by itself
            self._served.wait_for(lambda: not self._sockets, timeout=5)


class Broker:
    """The broker on a port of this machine (0: a free one); ``file`` keeps its durable queues between two openings."""

    def __init__(self, port: int = 0, file: Path | None = None) -> None:
        self.port = port
        self.lock = threading.RLock()
        self.queues: dict[str, _Queue] = {}
        self.exchanges: dict[str, dict[str, list[str]]] = {}
        self._file = file
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The address for AMQP clients."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    def open(self) -> None:
        """Listen, with what `close` kept."""
        self._load()
        self._server = _Server(self.port, self)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="broker").start()

    def close(self) -> None:
        """End all connections, and keep what is durable."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.hang_up()
            self._save()

    def route(self, exchange: str, key: str) -> list[_Queue] | None:
        """Return the queues that a message goes to, or None when there is no such exchange."""
        if exchange == "":
            return [self.queues[key]] if key in self.queues else []
        if exchange not in self.exchanges:
            return None
        return [self.queues[name] for name in self.exchanges[exchange].get(key, []) if name in self.queues]

    def _save(self) -> None:
        with self.lock:
            kept = {queue.name: queue.messages for queue in self.queues.values() if queue.durable}
            queues = {
                name: [each.saved() for each in messages if each.properties.delivery_mode == _PERSISTENT]
                for name, messages in kept.items()
            }
            self.queues.clear()
            if self._file is not None:
                self._file.write_text(json.dumps({"exchanges": self.exchanges, "queues": queues}))

    def _load(self) -> None:
        if self._file is None or not self._file.exists():
            return
        saved = json.loads(self._file.read_text())
        self.exchanges = saved["exchanges"]
        for name, messages in saved["queues"].items():
            self.queues[name] = _Queue(name, True, deque(_Message.load(each) for each in messages))


def main() -> None:
    """Run as a process until SIGTERM, SIGINT or, with --child, the end of standard input."""
    parser = argparse.ArgumentParser(description=Broker.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--child", action="store_true", help="end with standard input")
    arguments = parser.parse_args()
    block_signals()
    with Broker(arguments.port, arguments.file) as broker:
        print(broker.url, flush=True)
        wait_for_the_end(child=arguments.child)


if __name__ == "__main__":
    main()
