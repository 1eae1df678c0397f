"""`python -m tests.bench.overload`: what the server does with twice of what it can (GATE-9).

First as much as it can (64 connections that ask again as soon as they are answered), then four fifths and twice of that
at fixed times, whatever becomes of the answers, then probes until all is as before. Latencies count from when a request
was due, so that a client that is late hides nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import psutil
import uvloop

from tests.bench.cases import requests_of
from tests.bench.data import task_rows
from tests.bench.fill import make_template
from tests.bench.load import MARK
from tests.bench.servers import rest, server_process
from tests.serving import ServerProcess

_TICK = 0.002
_FAST = 0.05  # seconds; a probe that takes no longer is answered as ever


@dataclass
class Answers:
    """What came of a phase: seconds by status, and what nobody was free to send."""

    seconds: float
    by_status: dict[int, list[float]] = field(default_factory=dict)
    unsent: int = 0
    lost: int = 0

    def note(self, status: int, seconds: float) -> None:
        """An answer."""
        self.by_status.setdefault(status, []).append(seconds)

    def admitted(self) -> list[float]:
        """Seconds of each request that was answered as it should be."""
        return [each for status, found in self.by_status.items() if status < 300 for each in found]

    def refused(self) -> list[float]:
        """Seconds of each request that was refused for overload."""
        return [*self.by_status.get(503, ()), *self.by_status.get(429, ())]

    def figures(self) -> dict[str, Any]:
        """To be printed."""
        admitted, refused = self.admitted(), self.refused()
        return {
            "goodput": round(len(admitted) / self.seconds),
            "admitted_p50_ms": _milliseconds(admitted, 0.5),
            "admitted_p99_ms": _milliseconds(admitted, 0.99),
            "refused": round(len(refused) / self.seconds),
            "refused_p50_ms": _milliseconds(refused, 0.5),
            "refused_p99_ms": _milliseconds(refused, 0.99),
            "unsent": self.unsent,
            "lost": self.lost,
            "statuses": {status: len(found) for status, found in sorted(self.by_status.items())},
        }


def _milliseconds(seconds: Sequence[float], share: float) -> float | None:
    if not seconds:
        return None
    return round(1000 * sorted(seconds)[min(len(seconds) - 1, math.ceil(share * len(seconds)))], 1)


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._buffer = b""
        self._due = 0.0
        self._missing = 0
        self._status = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, due: float) -> None:
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            self._buffer += data
            head, found, body = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            self._status = int(head[9:12])
            start = head.lower().index(b"content-length:") + 15
            self._missing = int(head[start : start + 12].partition(b"\r")[0]) - len(body)
            self._buffer = b""
        else:
            self._missing -= len(data)
        if self._missing <= 0:
            self._missing = 0
            self._client.answered(self, self._status, time.perf_counter() - self._due)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost(self)

    def close(self) -> None:
        self._transport.close()


class Client:
    """Many connections to one server."""

    def __init__(self, port: int, requests: Sequence[bytes], connections: int) -> None:
        self._port = port
        self._count = connections
        self._requests = requests
        self._number = 0
        self._free: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._answers = Answers(0)
        self._again = False
        self._ended = False
        self._ending = asyncio.Event()

    async def connect(self) -> None:
        """Opens the connections that are missing: the server ends those that nobody uses."""
        for _ in range(self._count - len(self._all)):
            _, made = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), "127.0.0.1", self._port
            )
            self._all.add(made)
            self._free.append(made)

    async def as_fast_as_it_can(self, seconds: float, connections: int) -> Answers:
        """Each connection asks again as soon as it is answered."""
        self._begin(seconds, again=True)
        for _ in range(connections):
            self._send(self._free.pop(), time.perf_counter())
        await asyncio.sleep(seconds)
        return await self._end()

    async def at_rate(self, seconds: float, rate: float) -> Answers:
        """So many requests a second, whatever becomes of them."""
        self._begin(seconds, again=False)
        started = time.perf_counter()
        sent = 0
        while (now := time.perf_counter()) - started < seconds:
            for number in range(sent, int((now - started) * rate)):
                if self._free:
                    self._send(self._free.pop(), started + number / rate)
                else:
                    self._answers.unsent += 1
            sent = max(sent, int((now - started) * rate))
            await asyncio.sleep(_TICK)
        return await self._end()

    async def recovery(self, seconds: float) -> float | None:
        """Seconds until ten probes after one another are answered as fast as ever; None: not within so many."""
        started = time.perf_counter()
        well = 0
        while time.perf_counter() - started < seconds:
            self._begin(0, again=False)
            self._send(self._free.pop(), time.perf_counter())
            answers = await self._end()
            well = well + 1 if answers.admitted() and max(answers.admitted()) < _FAST else 0
            if well == 10:
                return time.perf_counter() - started
        return None

    def close(self) -> None:
        """Ends all connections."""
        self._ended = True
        for each in self._all:
            each.close()

    def answered(self, connection: _Connection, status: int, seconds: float) -> None:
        """See `_Connection`."""
        self._answers.note(status, seconds)
        if self._again:
            self._send(connection, time.perf_counter())
        else:
            self._free.append(connection)
            if len(self._free) == len(self._all):
                self._ending.set()

    def lost(self, connection: _Connection) -> None:
        """See `_Connection`."""
        self._all.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        elif not self._ended:
            self._answers.lost += 1
            self._ending.set()

    def _begin(self, seconds: float, *, again: bool) -> None:
        self._answers = Answers(seconds)
        self._again = again

    async def _end(self) -> Answers:
        self._again = False
        while len(self._free) < len(self._all):
            self._ending.clear()
            await self._ending.wait()
        return self._answers

    def _send(self, connection: _Connection, due: float) -> None:
        self._number += 1
        request = self._requests[self._number % len(self._requests)]
        connection.send(request.replace(MARK, b"%010d" % self._number), due)


def _memory(server: ServerProcess) -> float:
    process = psutil.Process(server.pid)
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 1e6


async def _run(options: argparse.Namespace, server: ServerProcess, requests: Sequence[bytes]) -> dict[str, Any]:
    client = Client(int(server.url.rpartition(":")[2]), requests, options.connections)
    await client.connect()
    await client.as_fast_as_it_can(options.seconds, 64)
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        await asyncio.to_thread(rest, server)
        await client.connect()
        peak = await client.as_fast_as_it_can(options.seconds, 64)
        await asyncio.to_thread(rest, server)
        await client.connect()
        rate = len(peak.admitted()) / options.seconds
        usual = await client.at_rate(options.seconds, 0.8 * rate)
        await asyncio.to_thread(rest, server)
        await client.connect()
        before = _memory(server)
        twice = await client.at_rate(options.seconds, options.times * rate)
        recovered = await client.recovery(10)
        found = {
            "peak": peak.figures(),
            "80 %": usual.figures(),
            f"{options.times:g} times": twice.figures(),
            "goodput_of_peak": round(len(twice.admitted()) / len(peak.admitted()), 3),
            "recovered_after_s": recovered if recovered is None else round(recovered, 3),
            "memory_mb": [round(before), round(_memory(server))],
        }
        rounds.append(found)
        print(f"round {number + 1}", json.dumps(found, indent=2), flush=True)
    client.close()
    return {
        "goodput_of_peak": statistics.median(each["goodput_of_peak"] for each in rounds),
        "rounds": rounds,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overload", description=__doc__.partition("\n")[0])
    parser.add_argument("--case", default="mixed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--times", type=float, default=2, help="of the peak")
    parser.add_argument("--connections", type=int, default=1500)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--template", type=Path, help="fill this folder once and copy it in later runs too")
    parser.add_argument("--output", type=Path, default=Path("build/overload.json"))
    options = parser.parse_args()
    settings = {"rate_limit": "off", "password_hash": "standard", "public_url": "http://bench.example.org"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = task_rows(options.tasks)[1]
        template = make_template(
            (options.template or folder / "template").absolute(), settings, options.people, rows, 64
        )
        data = template.copy(folder / "data")
        with server_process(data, settings, options.workers) as server:
            server.wait_ready()
            found = uvloop.run(_run(options, server, requests_of(options.case, template)))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
