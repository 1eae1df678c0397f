"""`python -m tests.bench`: the server over HTTP, in the same run beside a bare ASGI answer of the same size and, in the
embedded shape, beside a plain application of the usual libraries.

For each case and round: load on each of them, in turns. A figure is the median of the rounds; figures move with the
machine, the ratios hardly do.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.bench import metrics
from tests.bench.cases import CASES, COUNT, KINDS, PLAIN_CASES, requests_of
from tests.bench.cluster import ClusterServer, Parts
from tests.bench.data import task_rows
from tests.bench.fill import make_template
from tests.bench.load import MARK, Load, Result, need_wrk, read_requests, write_requests
from tests.bench.plain_data import make_plain
from tests.bench.report import Measured, line, summary, table
from tests.bench.servers import bare_process, cpu_by_process, cpu_of_parts, plain_process, rest, server_process
from tests.serving import ServerEnded, ServerProcess

_ROOT = Path(__file__).resolve().parents[2]
# One name whatever the port, so that the tokens of the template are good in every round.
_URL = "http://bench.example.org"
_WARM_UP = 10.0  # seconds for playing all that was recorded once
_SIGNING_IN = 64  # people who sign in, of all


class Bench:
    """One run."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._load = Load(options.loadgen, options.connections)
        self._settings = {
            "rate_limit": "off",
            "password_hash": options.password_hash,
            "public_url": _URL,
            "log_level": options.log_level,
            **dict(setting.split("=", 1) for setting in options.set),
        }
        self.rounds: dict[str, list[dict[str, Measured]]] = {case: [] for case in options.cases}
        self.answers: dict[str, dict[str, Any]] = {}
        self._requests: dict[tuple[str, str], Path] = {}

    def run(self) -> None:
        """All rounds. Raises SystemExit when an answer was not as it should be."""
        options = self._options
        source, rows = task_rows(options.tasks)
        print(f"{len(rows):,} tasks ({source}), {options.people:,} people: filling a data folder …", flush=True)
        started = time.perf_counter()
        folder = options.template or self._folder / "template"
        with contextlib.ExitStack() as whole:
            parts = whole.enter_context(Parts.running(self._folder)) if options.shape == "cluster" else None
            template = make_template(folder.absolute(), self._settings, options.people, rows, _SIGNING_IN, parts=parts)
            tokens = make_plain(self._folder / "plain", template) if parts is None else {}
            print(f"filled and at rest after {time.perf_counter() - started:.0f} s", flush=True)
            for name in {*options.cases, *KINDS}:
                self._record("server", name, requests_of(name, template))
            for name in PLAIN_CASES if parts is None else ():
                self._record("plain", name, requests_of(name, template, tokens))
            bare: ServerProcess | None = None
            for number in range(options.rounds):
                data = template.copy(self._folder / f"server{number}")
                with contextlib.ExitStack() as stack:
                    server = stack.enter_context(server_process(data, self._settings, options.workers, parts))
                    servers = {"server": server}
                    if parts is None:
                        servers["plain"] = stack.enter_context(self._plain(number))
                    for each in servers.values():
                        each.wait_ready()
                    if bare is None:
                        bare = whole.enter_context(self._bare(server))
                        bare.wait_ready()
                    self._round(number, {**servers, "bare": bare})
            # All folders stay to the end: to delete thousands of mails makes ext4 slow to create files for minutes.

    def _record(self, name: str, case: str, requests: Sequence[bytes]) -> None:
        path = self._requests[name, case] = self._folder / f"{name}-{case}.requests"
        write_requests(path, requests)

    def _file(self, name: str, case: str) -> Path:
        """The requests for one of the three: the plain application has its own, for the tokens are its own."""
        return self._requests["plain" if name == "plain" else "server", case]

    def _plain(self, number: int) -> ServerProcess:
        """The plain application on a copy of its data."""
        folder = self._folder / f"plain{number}"
        shutil.copytree(self._folder / "plain", folder)
        return plain_process(folder, self._options.workers)

    def _bare(self, server: ServerProcess) -> ServerProcess:
        """The bare application, with answers of median size recorded from the server."""
        for place, kind in enumerate(KINDS):
            self.answers[kind] = _recorded(server.url, self._file("server", kind), 100 * place)
        path = self._folder / "answers.json"
        path.write_text(json.dumps(self.answers))
        return bare_process(self._folder / "bare", path, self._options.workers)

    def _round(self, number: int, servers: Mapping[str, ServerProcess]) -> None:
        cases = {
            case: [name for name in servers if name != "plain" or case in PLAIN_CASES] for case in self._options.cases
        }
        for case, names in cases.items():
            for name in names:
                if name != "bare":
                    self._warm_up(case, name, servers[name])
        for case, names in cases.items():
            # Each is first, second and last in turn.
            turned = names[number % len(names) :] + names[: number % len(names)]
            found = {name: self._measure(case, name, servers[name]) for name in turned}
            self.rounds[case].append({name: found[name] for name in names})
            said = "  | ".join(line(f"{name:6}", found[name]) for name in names)
            print(f"  round {number + 1} {case:7}{said}", flush=True)

    def _warm_up(self, case: str, name: str, server: ServerProcess) -> None:
        requests, seconds = self._file(name, case), self._options.seconds / 3
        for _ in range(10):
            result = self._load.run(server.url, requests, seconds, count_statuses=True)
            rest(server)
            if result.requests:  # a cold server on a busy machine may answer nothing in so short a time
                break
        _check(f"{case} ({name})", result, server)
        # Everybody who asks has asked before: a server that has been running for a while is what is measured.
        if not self._options.quick and result.requests < COUNT:
            self._load.run(server.url, requests, min(COUNT / result.rate, _WARM_UP))
            rest(server)

    def _measure(self, case: str, name: str, server: ServerProcess) -> Measured:
        urls = self._metrics_urls(server) if name == "server" else []
        seen = metrics.read(*urls)
        before, parts_before = cpu_by_process(server), cpu_of_parts(server)
        result = self._load.run(server.url, self._file(name, case), self._options.seconds)
        rest(server)
        _check(f"{case} ({name})", result, server)
        after, parts_after = cpu_by_process(server), cpu_of_parts(server)
        counted = metrics.read(*urls)
        counted.subtract(seen)
        each = 1e6 / max(1, result.requests)
        return Measured(
            result,
            {name: each * (cpu - before.get(name, 0.0)) for name, cpu in after.items()},
            counted,
            {name: each * (cpu - parts_before[name]) for name, cpu in parts_after.items()},
        )

    def _metrics_urls(self, server: ServerProcess) -> list[str]:
        if isinstance(server, ClusterServer):
            return server.metrics_urls
        # Each worker has counters of its own: one would answer before and another after.
        return [server.url] if self._options.workers == 1 else []


def _recorded(url: str, requests: Path, first: int) -> dict[str, Any]:
    """The answer of median size to the first requests of a file; their numbers count from `first`."""
    answers: list[dict[str, Any]] = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for number, raw in zip(range(first, first + 31), read_requests(requests), strict=False):
            head, _, body = raw.replace(MARK, b"%010d" % number).decode().partition("\r\n\r\n")
            request_line, *lines = head.split("\r\n")
            verb, path, _ = request_line.split(" ")
            headers = dict(line.split(": ", 1) for line in lines)
            response = client.request(verb, path, content=body.encode(), headers=headers)
            if not response.is_success:
                raise SystemExit(f"{request_line}\nwas answered {response.status_code} {response.text}")
            answers.append({
                "status": response.status_code,
                "headers": list(response.headers.items()),
                "body": base64.b64encode(response.content).decode(),
            })  # fmt: skip
    answers.sort(key=lambda answer: len(answer["body"]))
    return answers[len(answers) // 2]


def _check(case: str, result: Result, server: ServerProcess) -> None:
    wrong = {status: count for status, count in result.statuses.items() if not status.startswith("2")}
    if result.bad or result.lost or wrong or not result.requests:
        raise SystemExit(
            f"{case}: of {result.requests} requests {result.bad} were refused and {result.lost} not answered "
            f"(by status: {result.statuses or 'not counted'}). The server's log ends:\n{server.tail(10)}"
        )


def _environment(options: argparse.Namespace) -> dict[str, Any]:
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    return {
        "python": platform.python_version(),
        "machine": cpu.partition(": ")[2] or platform.machine(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "commit": commit.stdout.strip(),
        "options": {name: value for name, value in vars(options).items() if name not in ("output", "template")},
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each case is measured")
    parser.add_argument("--seconds", type=float, default=5, help="of load for each measurement")
    parser.add_argument("--connections", type=int, default=64, help="open at once")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--shape", choices=("embedded", "cluster"), default="embedded", help="one process, or eight")
    parser.add_argument("--workers", type=int, default=1, help="processes that answer, of each of the three")
    parser.add_argument("--template", type=Path, help="a folder to fill once and to use again in later runs")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="only these")
    parser.add_argument("--quick", action="store_true", help="one short round on little data, to see that it works")
    parser.add_argument("--loadgen", choices=("wrk", "python"), default="wrk")
    parser.add_argument("--password-hash", choices=("standard", "fast"), default="standard")
    parser.add_argument("--log-level", default="info", help="the server's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="another setting of the server"
    )
    parser.add_argument("--output", type=Path, default=_ROOT / "build" / "bench.json", help="where the figures go")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds, options.tasks, options.people = 1, 1, 500, 8
        options.connections = 16
        options.password_hash = "fast"
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the table and writes the file."""
    options = _options(arguments)
    if options.loadgen == "wrk":
        need_wrk()
    environment = _environment(options)
    with tempfile.TemporaryDirectory(prefix="taskman-bench-") as folder:
        bench = Bench(options, Path(folder))
        try:
            bench.run()
        except ServerEnded as error:
            raise SystemExit(str(error)) from None
    cases = {case: summary(rounds) for case, rounds in bench.rounds.items()}
    for case, answer in bench.answers.items():
        if case in cases:
            cases[case]["answer_bytes"] = len(base64.b64decode(answer["body"]))
    print(f"\nmedian of {options.rounds} × {options.seconds:g} s, {options.connections} connections, "
          f"workers: {options.workers}, "
          f"{environment['machine']}, {environment['cores']} cores shared with the load generator")  # fmt: skip
    print(table(cases, bench.answers))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"environment": environment, "cases": cases}, indent=1) + "\n")
    print(f"\nall rounds: {options.output}")


if __name__ == "__main__":
    main()
