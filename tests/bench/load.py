"""Load: wrk, or where it is missing a small generator of our own (slower, so for smoke tests only)."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path

__all__ = ["MARK", "Load", "Result", "need_wrk", "read_requests", "write_requests"]

MARK = b"@@@@@@@@@@"
"""In a request: becomes a number that no other request has."""
_SCRIPT = Path(__file__).with_name("play.lua")


@dataclass(frozen=True, slots=True)
class Result:
    """What came of some seconds of load; `p50`, `p99` and `p999` (99.9 %) in milliseconds.

    Attributes:
        bad: answers with a status of 400 or more.
        lost: requests without an answer.
        statuses: answers by status, where they were counted.
    """

    requests: int
    seconds: float
    p50: float
    p99: float
    p999: float
    bad: int
    lost: int
    statuses: dict[str, int]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def write_requests(path: Path, requests: Sequence[bytes]) -> None:
    """Writes requests as `play.lua` reads them."""
    path.write_bytes(b"".join(b"%d\n%s" % (len(request), request) for request in requests))


def need_wrk() -> None:
    """Sees to it that wrk is there, by apt where that is possible.

    Raises:
        SystemExit: it is not, and why.
    """
    if shutil.which("wrk"):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("wrk is missing: apt-get install wrk")
        subprocess.run(["apt-get", "install", "-y", "-qq", "wrk"], check=False, stdout=subprocess.DEVNULL)
    if not shutil.which("wrk"):
        raise SystemExit("The bench needs wrk: `apt install wrk`. (`--loadgen python` works without, but is slow.)")


class Load:
    """Plays files of requests at servers."""

    def __init__(self, generator: str, connections: int) -> None:
        """`generator`: wrk or python."""
        self._generator = generator
        self._connections = connections
        self._first = 0  # so that no number is used in two runs

    def run(self, url: str, requests: Path, seconds: float, *, count_statuses: bool = False) -> Result:
        """As many requests as go in so many seconds, over all connections."""
        self._first += 10_000_000  # of ten digits: enough for a thousand runs
        if self._generator == "wrk":
            return self._wrk(url, requests, seconds, count_statuses)
        return asyncio.run(_Player(requests, self._first, seconds).run(url, self._connections))

    def _wrk(self, url: str, requests: Path, seconds: float, count_statuses: bool) -> Result:
        command = ["wrk", "-t1", f"-c{self._connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
        command += ["-s", str(_SCRIPT), url, "--", str(requests), str(self._first)]
        command += ["count"] if count_statuses else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        line = next((line for line in done.stdout.splitlines() if line.startswith("BENCH ")), None)
        if done.returncode != 0 or line is None:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        said = json.loads(line.removeprefix("BENCH "))
        return Result(
            said["requests"],
            said["microseconds"] / 1e6,
            said["p50"] / 1000,
            said["p99"] / 1000,
            said["p999"] / 1000,
            said["bad"],
            said["lost"],
            said["statuses"],
        )


class _Player:
    def __init__(self, requests: Path, first: int, seconds: float) -> None:
        self._requests = cycle(read_requests(requests))
        self._numbers = count(first)
        self._seconds = seconds
        self._times: list[float] = []
        self._statuses: Counter[str] = Counter()
        self._lost = 0

    async def run(self, url: str, connections: int) -> Result:
        host, _, port = url.removeprefix("http://").partition(":")
        started = time.perf_counter()
        deadline = started + self._seconds
        await asyncio.gather(*(self._connection(host, int(port), deadline) for _ in range(connections)))
        seconds = time.perf_counter() - started
        times = sorted(self._times)
        bad = sum(count for status, count in self._statuses.items() if status >= "400")
        p50, p99, p999 = (
            1000 * times[math.ceil(len(times) * part) - 1] if times else 0.0 for part in (0.5, 0.99, 0.999)
        )
        return Result(len(times), seconds, p50, p99, p999, bad, self._lost, dict(self._statuses))

    async def _connection(self, host: str, port: int, deadline: float) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            while (began := time.perf_counter()) < deadline:
                writer.write(next(self._requests).replace(MARK, b"%010d" % next(self._numbers)))
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                self._statuses[head[9:12].decode()] += 1
                self._times.append(time.perf_counter() - began)
        except (OSError, asyncio.IncompleteReadError):
            self._lost += 1
        finally:
            writer.close()


def read_requests(path: Path) -> Iterator[bytes]:
    """The requests of a file."""
    data = path.read_bytes()
    at = 0
    while at < len(data):
        end = data.index(b"\n", at)
        length = int(data[at:end])
        at = end + 1 + length
        yield data[end + 1 : at]
