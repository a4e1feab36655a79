"""One channel of an AMQP connection: deliveries, acknowledgements, publishing and the declarations before them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from pika import frame, spec

from .amqp_queues import Consumer, Message, Queue, Queues

__all__ = ["FRAME", "Channel"]

FRAME = 131_072
"""The largest frame, as RabbitMQ's."""
_tags = itertools.count()


class Channel:
    """One channel of one connection; all of it runs under the broker's lock."""

    def __init__(self, queues: Queues, number: int, send: Callable[[bytes], None]) -> None:
        self._queues = queues
        self._number = number
        self._send_bytes = send
        self._consumers: dict[str, Consumer] = {}
        self._unacknowledged: dict[int, tuple[Queue, Message]] = {}
        self._delivered = 0
        self._prefetch = 0
        self._confirmed: int | None = None
        self._publishing: tuple[Any, Any, bytearray] | None = None
        self._failed = False

    def is_full(self) -> bool:
        """Return whether prefetch forbids another delivery."""
        return bool(self._prefetch) and len(self._unacknowledged) >= self._prefetch

    def deliver(self, consumer: Consumer, message: Message) -> None:
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

    def _content(self, method: Any, message: Message) -> None:
        parts = [
            frame.Method(self._number, method).marshal(),
            frame.Header(self._number, len(message.body), message.properties).marshal(),
        ]
        step = FRAME - 8
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
        if method.passive and method.exchange not in self._queues.exchanges:
            self._fail(404, f"NOT_FOUND - no exchange '{method.exchange}'", method)
            return
        self._queues.exchanges.setdefault(method.exchange, {})
        if not method.nowait:
            self._reply(spec.Exchange.DeclareOk())

    def _declare_queue(self, method: Any) -> None:
        if method.passive and method.queue not in self._queues.by_name:
            self._fail(404, f"NOT_FOUND - no queue '{method.queue}'", method)
            return
        queue = self._queues.by_name.setdefault(method.queue, Queue(method.queue, method.durable))
        if not method.nowait:
            self._reply(spec.Queue.DeclareOk(queue.name, len(queue.messages), len(queue.consumers)))

    def _queue(self, method: Any) -> Queue | None:
        queue = self._queues.by_name.get(method.queue)
        if queue is None:
            self._fail(404, f"NOT_FOUND - no queue '{method.queue}'", method)
        return queue

    def _bind(self, method: Any) -> None:
        if self._queue(method) is not None:
            bound = self._queues.exchanges[method.exchange].setdefault(method.routing_key, [])
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
        queue = self._queues.by_name.pop(method.queue, None)
        self._reply(spec.Queue.DeleteOk(len(queue.messages) if queue else 0))

    def _consume(self, method: Any) -> None:
        queue = self._queue(method)
        if queue is None:
            return
        if any(each.exclusive for each in queue.consumers) or (method.exclusive and queue.consumers):
            self._fail(403, f"ACCESS_REFUSED - queue '{method.queue}' in exclusive use", method)
            return
        tag = method.consumer_tag or f"consumer-{next(_tags)}"
        consumer = Consumer(self, queue, tag, method.no_ack, method.exclusive)
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
        queues = self._queues.route(method.exchange, method.routing_key)
        if queues is None:
            self._fail(404, f"NOT_FOUND - no exchange '{method.exchange}'", method)
            return
        message = Message(method.exchange, method.routing_key, header.properties, bytes(body))
        if not queues and method.mandatory:
            self._content(spec.Basic.Return(312, "NO_ROUTE", method.exchange, method.routing_key), message)
        for queue in queues:
            queue.messages.append(Message(message.exchange, message.key, message.properties, message.body))
            queue.pump()
        if self._confirmed is not None:
            self._confirmed += 1
            self._reply(spec.Basic.Ack(self._confirmed))


_METHODS: dict[type, Callable[[Channel, Any], None]] = {
    spec.Channel.Open: Channel._open,
    spec.Channel.Close: Channel._close,
    spec.Channel.CloseOk: Channel._close_ok,
    spec.Confirm.Select: Channel._confirm,
    spec.Basic.Qos: Channel._qos,
    spec.Exchange.Declare: Channel._declare_exchange,
    spec.Queue.Declare: Channel._declare_queue,
    spec.Queue.Bind: Channel._bind,
    spec.Queue.Purge: Channel._purge,
    spec.Queue.Delete: Channel._delete,
    spec.Basic.Consume: Channel._consume,
    spec.Basic.Cancel: Channel._cancel,
    spec.Basic.Ack: Channel._settle,
    spec.Basic.Nack: Channel._settle,
    spec.Basic.Reject: Channel._settle,
    spec.Basic.Publish: Channel._begin_publish,
}
