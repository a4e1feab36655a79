"""An AMQP 0-9-1 broker in memory, on pika's own codecs: what Globus Compute's endpoints and client library ask of RabbitMQ.

It knows direct exchanges, queues, consumers (also exclusive ones), prefetch, acknowledgements with redelivery, publisher
confirms and returned messages; it knows no users, no lifetimes, no limits, no transactions. `Broker.close` writes durable
queues with their persistent messages to a file, what was delivered but not acknowledged included, and `Broker.open` reads
it: an orderly restart loses nothing that RabbitMQ would keep. A killed broker loses everything; RabbitMQ would not.
"""

from __future__ import annotations

import argparse
import socket
import socketserver
import threading
from pathlib import Path
from typing import Any, Self

from pika import frame, spec

from .amqp_channel import FRAME, Channel
from .amqp_queues import Queues
from .lifetime import block_signals, wait_for_the_end

__all__ = ["Broker"]


class _Connection(socketserver.BaseRequestHandler):
    """One client's connection, on a thread of its own."""

    server: _Server

    def setup(self) -> None:
        self._channels: dict[int, Channel] = {}
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
        with self.server.queues.lock:
            number = piece.channel_number
            if number not in self._channels:
                self._channels[number] = Channel(self.server.queues, number, self._send)
            self._channels[number].take(piece)
        return True

    def _handshake(self, method: Any) -> bool:
        if isinstance(method, spec.Connection.StartOk):
            self._send_method(spec.Connection.Tune(2047, FRAME, 0))
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
        with self.server.queues.lock:
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

    def __init__(self, port: int, queues: Queues) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.queues = queues
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
            if not self._served.wait_for(lambda: not self._sockets, timeout=5):
                raise RuntimeError("a connection of the broker does not end")


class Broker:
    """The broker on a port of this machine (0: a free one); ``file`` keeps its durable queues between two openings."""

    def __init__(self, port: int = 0, file: Path | None = None) -> None:
        self.port = port
        self._queues = Queues()
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
        self._queues.load(self._file)
        self._server = _Server(self.port, self._queues)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="broker").start()

    def close(self) -> None:
        """End all connections, and keep what is durable."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.hang_up()
            self._queues.save(self._file)


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
