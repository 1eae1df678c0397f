"""What a call between processes costs, plain and batched: `python -m tests.bench.peers [callers …]`.

The server is a process of its own with certificates on both sides and the whole pipeline; CPU is that of both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from taskman_sdk import contract
from taskman_server.kit.rpc import CallOptions, service_principal
from taskman_server.kit.rpc.peers import PeerChannel
from taskman_server.kit.rpc.server import GrpcServer
from taskman_server.kit.tls import Identity, issue, make_authority
from tests.contract.probe import probe_service, running_probe

TICKS = os.sysconf("SC_CLK_TCK")


async def serve(folder: Path) -> None:
    """The server process; ends when its input does."""
    with tempfile.TemporaryDirectory() as home:
        service = probe_service(Path(home))
        async with running_probe(service, Path(home)) as probe:
            server = GrpcServer(service, probe.pipeline, trusted=True, identity=Identity.of_folder(folder, "users"))
            print(await server.start("127.0.0.1", 0), flush=True)
            await asyncio.to_thread(sys.stdin.read)
            await server.stop(0)


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def load(channel: PeerChannel, method: contract.Method, callers: int, seconds: float) -> int:
    """Calls without a pause from so many callers; how many calls were answered."""
    end = time.monotonic() + seconds
    metadata = {
        "x-request-id": "req_01j8x3yq7e5v2c9n4m6k0t8w1z",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    }

    async def one() -> int:
        made = 0
        request = method.input(name="p", text="hello")
        while time.monotonic() < end:
            options = CallOptions(metadata, 5, service_principal("tasks", "default", "user_01j8x3yq7e5v2c9n4m6k0t8w1z"))
            await channel.unary(method, request, options)
            made += 1
        return made

    return sum(await asyncio.gather(*(one() for _ in range(callers))))


async def measure(folder: Path, callers: list[int], seconds: float) -> None:
    """Prints a line for each number of callers, plain and batched."""
    with tempfile.TemporaryDirectory() as home:
        service = probe_service(Path(home))
    method = service.methods["Echo"]
    child = subprocess.Popen(  # noqa: ASYNC220 - before anything else runs in this loop
        [sys.executable, "-m", "tests.bench.peers", "--serve", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        port = int(await asyncio.to_thread(child.stdout.readline))
        identity = Identity.of_folder(folder, "tasks")
        print("callers  way      calls/s   CPU µs a call: both  caller  server")
        for count in callers:
            for batching in (False, True):
                channel = PeerChannel("users", f"127.0.0.1:{port}", identity, batching=batching)
                await load(channel, method, count, 0.5)
                before = cpu(os.getpid()), cpu(child.pid)
                made = await load(channel, method, count, seconds)
                ours, theirs = cpu(os.getpid()) - before[0], cpu(child.pid) - before[1]
                way = "batched" if batching else "plain"
                print(
                    f"{count:7}  {way:7} {made / seconds:8.0f}  {1e6 * (ours + theirs) / made:19.0f}"
                    f"  {1e6 * ours / made:6.0f}  {1e6 * theirs / made:6.0f}"
                )
                await channel.close()
    finally:
        child.stdin.close()
        child.wait(10)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("callers", nargs="*", type=int, default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_authority(Path(folder))
        for service in ("users", "tasks"):
            issue(Path(folder), service)
        uvloop.run(measure(Path(folder), options.callers, options.seconds))


if __name__ == "__main__":
    main()
