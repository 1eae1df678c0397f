"""Several calls to one peer in one gRPC message: what is called within a turn of the event loop travels together, and
under load what is called until the batches before it are answered.

A gRPC call costs both ends far more than what is in it (DESIGN "The hot path"); this shares that cost. Each call keeps
its own metadata, deadline, permission checks, errors and trailers, and is answered as soon as it is done, so that a
slow one holds up nobody. A caller who goes away cancels its own call and no other. Streams never travel this way.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final

import grpc
import grpc.aio

from taskman_sdk import codec, wire
from taskman_sdk.contract import Method
from taskman_sdk.errors import DeadlineExceededError, InternalError, TaskManError, UnimplementedError
from taskman_sdk.proto.google.rpc.status_pb import Status
from taskman_server.kit.rpc import claims
from taskman_server.kit.rpc.channel import CallOptions
from taskman_server.kit.rpc.peer_pb import Batch, CancelRequest, CancelResponse, Item, Replies, Reply

__all__ = ["LONGEST_TIMEOUT", "SERVICE", "BatchLost", "Batcher", "PeerCalls"]

SERVICE: Final = "taskman.peer.v1.PeerService"
LONGEST_TIMEOUT: Final = 300.0
"""Seconds; what a service works at most. gRPC takes much longer ones for none at all, and ends the call at once."""
THRESHOLD: Final = 2
"""From so many calls on a batch costs less CPU than plain RPCs, for both ends: 500 µs a call against 600; of 64, 67."""
AT_ONCE: Final = 2
"""So many batches of a channel wait for their first answer; what is called meanwhile is the next one."""
PATIENCE: Final = 0.005
"""Seconds; one whose first answer takes longer holds up nobody."""
_LARGEST: Final = 128
_LARGE_BODY: Final = 64 << 10  # such a request gains nothing, and would keep the others waiting
_MESSAGE: Final = 4 << 20
_SLACK: Final = 1.0
_CANCEL_ATTEMPTS: Final = 8
_EOF: Final[object] = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs have none


class BatchLost(Exception):
    """The batch ended before this call was answered; `error` is what gRPC says."""

    def __init__(self, error: grpc.aio.AioRpcError | None) -> None:
        super().__init__(error)
        self.error = error


class _Waiting:
    """One call that waits for its answer; `answer` is None where it shall go as a plain RPC."""

    __slots__ = ("answer", "batch", "index", "item", "options")

    def __init__(self, item: Item, options: CallOptions, answer: asyncio.Future[Reply | None]) -> None:
        self.item = item
        self.options = options
        self.answer = answer
        self.batch: _Sent | None = None
        self.index = 0

    def expire(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(
                DeadlineExceededError("The call took longer than its deadline.", reason="DEADLINE_EXCEEDED")
            )


class _Sent:
    """A batch under way; `open` has those of its calls that wait."""

    __slots__ = ("id", "open", "place", "rpc")

    def __init__(self, calls: list[_Waiting], rpc: Callable[[Batch, float], Any]) -> None:
        self.id = random.getrandbits(64)
        self.open = dict(enumerate(calls))
        for index, each in self.open.items():
            each.batch, each.index = self, index
        lasts = min(max(each.item.timeout for each in calls), LONGEST_TIMEOUT)
        self.rpc = rpc(Batch(id=self.id, calls=[each.item for each in calls]), lasts + _SLACK)
        self.place: asyncio.TimerHandle | None = None


class Batcher:
    """Collects the unary calls that one channel is to make within a turn of the loop; longer while `AT_ONCE` batches
    wait for their first answer, `PATIENCE` seconds each at most: the more there is to do, the more travels together."""

    def __init__(self, channel: grpc.aio.Channel, *, threshold: int = THRESHOLD) -> None:
        self._call: Any = channel.unary_stream(
            f"/{SERVICE}/Call", request_serializer=codec.to_binary, response_deserializer=Replies.from_binary
        )
        self._cancel: Any = channel.unary_unary(
            f"/{SERVICE}/Cancel", request_serializer=codec.to_binary, response_deserializer=CancelResponse.from_binary
        )
        self._threshold = threshold
        self.batched = 0
        """How many calls have travelled with others."""
        self.batches = 0
        """In how many messages."""
        self._pending: list[_Waiting] = []
        self._flushing = False
        self._unanswered = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def unary(
        self, method: Method, request: codec.Message[Any], options: CallOptions
    ) -> codec.Message[Any] | None:
        """Makes the call together with others of this turn.

        Returns:
            The answer; None when there are too few others, and the caller shall make the call by itself.

        Raises:
            TaskManError: what the service answered.
            BatchLost: the connection was lost.
        """
        body = codec.to_binary(request)
        if len(body) > _LARGE_BODY:
            return None
        loop = asyncio.get_running_loop()
        timeout = options.timeout if options.timeout is not None else 0.0
        metadata = {key: _encodable(value) for key, value in claims.claims_of(options).items()}
        item = Item(path=method.path, metadata=metadata, timeout=timeout, body=body)
        waiting = _Waiting(item, options, loop.create_future())
        timer = loop.call_later(timeout, waiting.expire)
        self._pending.append(waiting)
        if not self._flushing and self._unanswered < AT_ONCE:
            self._flushing = True
            loop.call_soon(self._flush)
        try:
            reply = await waiting.answer
        except asyncio.CancelledError:
            self._give_up(waiting)
            raise
        finally:
            timer.cancel()
        return None if reply is None else codec.from_binary(method.output, reply.body)

    def _flush(self) -> None:
        self._flushing = False
        pending, self._pending = [each for each in self._pending if not each.answer.done()], []
        if len(pending) < self._threshold:
            for each in pending:
                each.answer.set_result(None)
            return
        self.batched += len(pending)
        for start in range(0, len(pending), _LARGEST):
            sent = _Sent(pending[start : start + _LARGEST], lambda batch, lasts: self._call(batch, timeout=lasts))
            self.batches += 1
            self._unanswered += 1
            sent.place = asyncio.get_running_loop().call_later(PATIENCE, self._vacate, sent)
            self._keep(self._read(sent))

    def _vacate(self, sent: _Sent) -> None:
        """The place of a batch is for the next one."""
        if sent.place is None:
            return
        sent.place.cancel()
        sent.place = None
        self._unanswered -= 1
        if self._pending and not self._flushing and self._unanswered < AT_ONCE:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    async def _read(self, sent: _Sent) -> None:
        lost: grpc.aio.AioRpcError | None = None
        try:
            while (replies := await sent.rpc.read()) is not _EOF:
                for reply in replies.replies:
                    _settle(sent.open.pop(reply.index, None), reply)
                self._vacate(sent)
        except grpc.aio.AioRpcError as error:
            lost = error
        finally:
            self._vacate(sent)
            for each in sent.open.values():
                if not each.answer.done():
                    each.answer.set_exception(BatchLost(lost))

    def _give_up(self, waiting: _Waiting) -> None:
        """Nobody waits for this call any more."""
        sent = waiting.batch
        if sent is None or sent.open.pop(waiting.index, None) is None:
            return
        if not sent.open:
            sent.rpc.cancel()
            return
        request = CancelRequest(batch=sent.id, index=waiting.index)

        async def cancel() -> None:
            # Where one name stands for several replicas the first to be asked may be another one.
            for attempt in range(_CANCEL_ATTEMPTS):
                try:
                    if (await self._cancel(request, timeout=1)).found:
                        return
                except grpc.aio.AioRpcError:
                    return
                await asyncio.sleep(0.005 * attempt)

        self._keep(cancel())

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _encodable(text: str) -> str:
    """A text that UTF-8 has: one that it has not would cost all calls of the batch."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _settle(waiting: _Waiting | None, reply: Reply) -> None:
    if waiting is None or waiting.answer.done():
        return
    waiting.options.trailers.update(reply.trailers)
    if reply.status:
        waiting.answer.set_exception(wire.from_status(codec.from_binary(Status, reply.status)))
    else:
        waiting.answer.set_result(reply)


Answer = Callable[[Method, bytes, CallOptions], Any]


class PeerCalls:
    """The other end: takes a batch apart and answers each call as if it had come alone."""

    def __init__(self, methods: Mapping[str, Method], answer: Answer, peer: Callable[[Any], str | None]) -> None:
        """Args:
        methods: the RPCs by path.
        answer: answers one call: method, request, options.
        peer: the service at the other end of a connection, as `claims.understand` takes it.
        """
        self._methods = {path: method for path, method in methods.items() if not method.streaming}
        self._answer = answer
        self._peer = peer
        self._under_way: dict[tuple[str | None, int], list[asyncio.Task[None]]] = {}

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """What a gRPC server takes."""
        call = grpc.unary_stream_rpc_method_handler(self.call, Batch.from_binary, codec.to_binary)
        cancel = grpc.unary_unary_rpc_method_handler(self.cancel, CancelRequest.from_binary, codec.to_binary)
        return grpc.method_handlers_generic_handler(SERVICE, {"Call": call, "Cancel": cancel})

    async def call(self, batch: Batch, context: Any) -> AsyncIterator[Replies]:
        """Answers a batch."""
        peer = self._peer(context)
        done: list[Reply] = []
        news = asyncio.Event()
        key = (peer, batch.id)

        async def one(index: int, item: Item) -> None:
            reply = Reply(index=index)  # of a call that was given up: nobody waits for it
            try:
                reply = await self._one(index, item, peer)
            finally:
                done.append(reply)
                news.set()

        tasks = [asyncio.create_task(one(index, item)) for index, item in enumerate(batch.calls)]
        self._under_way[key] = tasks
        left = len(tasks)
        try:
            while left:
                await news.wait()
                news.clear()
                replies, done = done, []
                left -= len(replies)
                for part in _parts(replies):
                    yield Replies(replies=part)
        finally:
            self._under_way.pop(key, None)
            for task in tasks:
                task.cancel()

    async def cancel(self, request: CancelRequest, context: Any) -> CancelResponse:
        """Gives up one call of a batch of the same caller."""
        tasks = self._under_way.get((self._peer(context), request.batch))
        if tasks is None or request.index >= len(tasks):
            return CancelResponse()
        tasks[request.index].cancel()
        return CancelResponse(found=True)

    async def _one(self, index: int, item: Item, peer: str | None) -> Reply:
        options = CallOptions()
        try:
            method = self._methods.get(item.path)
            if method is None:
                raise UnimplementedError(f"There is no {item.path} here.", reason="METHOD_NOT_FOUND")
            options = claims.understand(item.metadata, item.timeout, peer)
            answer = await self._answer(method, item.body, options)
            return Reply(index=index, body=codec.to_binary(answer), trailers=options.trailers)
        except Exception as error:
            known = (
                error if isinstance(error, TaskManError) else InternalError("A fault on our side.", reason="INTERNAL")
            )
            status = codec.to_binary(wire.to_status(known))
            return Reply(index=index, status=status, trailers=options.trailers)


def _parts(replies: list[Reply]) -> list[list[Reply]]:
    """Replies in messages that are not too large."""
    parts: list[list[Reply]] = [[]]
    size = 0
    for reply in replies:
        size += len(reply.body)
        if size > _MESSAGE and parts[-1]:
            parts.append([])
            size = len(reply.body)
        parts[-1].append(reply)
    return parts
