"""`python -m tests.bench`: the embedded server over HTTP, beside a bare ASGI answer of the same size in the same run.

For each case and round: load on the server, load on the bare application, in turns. A figure is the median of the
rounds; figures move with the machine, the ratios hardly do.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.bench import bare
from tests.bench.cases import CASES, requests_of
from tests.bench.data import Template, make_template, task_rows
from tests.bench.load import MARK, Load, Result, need_wrk, read_requests, write_requests
from tests.serving import ServerProcess

_ROOT = Path(__file__).resolve().parents[2]
# One name whatever the port, so that the tokens of the template are good in every round.
_URL = "http://bench.example.org"


@dataclass(frozen=True, slots=True)
class Measured:
    """One server under one case for one round; `cpu` in microseconds a request, work left behind included."""

    result: Result
    cpu: float

    def figures(self) -> dict[str, float]:
        """For the table and the file."""
        result = self.result
        return {
            "requests": result.requests,
            "requests_per_second": round(result.rate, 1),
            "cpu_us": round(self.cpu, 1),
            "p50_ms": round(result.p50, 3),
            "p99_ms": round(result.p99, 3),
        }


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

    def run(self) -> None:
        """All rounds. Raises SystemExit when an answer was not as it should be."""
        options = self._options
        source, rows = task_rows(options.tasks)
        print(f"{len(rows):,} tasks ({source}), {options.people} people: filling a data folder …", flush=True)
        started = time.perf_counter()
        template = make_template(self._folder / "template", self._settings, options.people, rows)
        print(f"filled and at rest after {time.perf_counter() - started:.0f} s", flush=True)
        files = {case: self._record(case, template) for case in CASES}
        floor: ServerProcess | None = None
        try:
            for number in range(options.rounds):
                data = template.copy(self._folder / f"round{number}")
                with ServerProcess(data, settings=self._settings) as server:
                    server.wait_ready()
                    if floor is None:
                        floor = self._bare(server, files)
                        floor.start()
                        floor.wait_ready()
                    for case in options.cases:
                        self._warm_up(case, server, files[case])
                    for case in options.cases:
                        self.rounds[case].append(self._round(case, number, server, floor, files[case]))
        finally:
            if floor is not None:
                floor.stop()

    def _record(self, case: str, template: Template) -> Path:
        path = self._folder / f"{case}.requests"
        write_requests(path, requests_of(case, template))
        return path

    def _bare(self, server: ServerProcess, files: Mapping[str, Path]) -> ServerProcess:
        """The bare application, with answers of median size recorded from the server."""
        for case in CASES:
            if case != "mixed":
                self.answers[case] = _recorded(server.url, files[case])
        path = self._folder / "answers.json"
        path.write_text(json.dumps(self.answers))
        command = (sys.executable, str(Path(bare.__file__)), str(path))
        return ServerProcess(self._folder / "bare", command=command)

    def _warm_up(self, case: str, server: ServerProcess, requests: Path) -> None:
        result = self._load.run(server.url, requests, self._options.seconds / 3, count_statuses=True)
        _check(case, result, server)
        _rest(server)

    def _round(
        self, case: str, number: int, server: ServerProcess, floor: ServerProcess, requests: Path
    ) -> dict[str, Measured]:
        found: dict[str, Measured] = {}
        both = {"server": server, "bare": floor}
        for name in sorted(both, reverse=number % 2 == 0):
            process = both[name]
            before = process.cpu_seconds()
            result = self._load.run(process.url, requests, self._options.seconds)
            _check(f"{case} ({name})", result, process)
            _rest(process)
            used = process.cpu_seconds() - before
            found[name] = Measured(result, 1e6 * used / max(1, result.requests))
        print(f"  round {number + 1} {case:7}" + _line(found["server"]) + "  | bare" + _line(found["bare"]), flush=True)
        return found


def _line(measured: Measured) -> str:
    return f"{measured.result.rate:9,.0f} req/s {measured.cpu:8,.0f} µs CPU"


def _recorded(url: str, requests: Path) -> dict[str, Any]:
    """The answer of median size to the first requests of a file."""
    answers: list[dict[str, Any]] = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for number, raw in zip(range(31), read_requests(requests), strict=False):
            head, _, body = raw.replace(MARK, b"%010d" % number).decode().partition("\r\n\r\n")
            first, *lines = head.split("\r\n")
            verb, path, _ = first.split(" ")
            headers = dict(line.split(": ", 1) for line in lines)
            response = client.request(verb, path, content=body.encode(), headers=headers)
            if not response.is_success:
                raise SystemExit(f"{first}\nwas answered {response.status_code} {response.text}")
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


def _rest(server: ServerProcess, seconds: float = 120) -> None:
    """Returns when the process has next to nothing to do: what requests leave behind belongs to their cost."""
    deadline = time.monotonic() + seconds
    before = server.cpu_seconds()
    while time.monotonic() < deadline:
        time.sleep(0.3)
        now = server.cpu_seconds()
        if now - before <= 0.02:
            return
        before = now
    raise SystemExit(f"the server was still at work {seconds:.0f} s after the load:\n{server.tail(10)}")


def summary(rounds: Sequence[Mapping[str, Measured]]) -> dict[str, Any]:
    """Medians over the rounds; ratios are taken within a round, then their median, least and greatest."""

    def medians(name: str) -> dict[str, float]:
        each = [measured[name].figures() for measured in rounds]
        return {key: statistics.median(figures[key] for figures in each) for key in each[0]}

    def ratio(figure: Any) -> dict[str, float]:
        values = [figure(measured["server"]) / max(figure(measured["bare"]), 1e-9) for measured in rounds]
        return {
            "median": round(statistics.median(values), 3),
            "min": round(min(values), 3),
            "max": round(max(values), 3),
        }

    return {
        "server": medians("server"),
        "bare": medians("bare"),
        "ratio": {"requests_per_second": ratio(lambda m: m.result.rate), "cpu": ratio(lambda m: m.cpu)},
        "rounds": [{name: measured.figures() for name, measured in each.items()} for each in rounds],
    }


def table(cases: Mapping[str, Any], answers: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"{'':8}{'answer':>8} {'req/s':>9} {'CPU µs':>8} {'p50 ms':>8} {'p99 ms':>8}"
        f"  | bare {'req/s':>8} {'CPU µs':>7}  | of bare's req/s   CPU × bare's (least–most)"
    ]
    for case, found in cases.items():
        server, floor, ratio = found["server"], found["bare"], found["ratio"]
        size = f"{len(base64.b64decode(answers[case]['body'])):,}" if case in answers else ""
        spread = f"({ratio['cpu']['min']:.1f}–{ratio['cpu']['max']:.1f})"
        lines.append(
            f"{case:8}{size:>8} {server['requests_per_second']:9,.0f} {server['cpu_us']:8,.0f} {server['p50_ms']:8.2f} "
            f"{server['p99_ms']:8.2f}  |      {floor['requests_per_second']:8,.0f} {floor['cpu_us']:7,.0f}  |"
            f" {ratio['requests_per_second']['median']:14.1%}   {ratio['cpu']['median']:10.1f} {spread}"
        )
    return "\n".join(lines)


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
        "options": {name: value for name, value in vars(options).items() if name != "output"},
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is measured")
    parser.add_argument("--seconds", type=float, default=5, help="of load for each measurement")
    parser.add_argument("--connections", type=int, default=16, help="open at once")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--people", type=int, default=100)
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
        bench.run()
    cases = {case: summary(rounds) for case, rounds in bench.rounds.items()}
    print(f"\nmedian of {options.rounds} × {options.seconds:g} s, {options.connections} connections, "
          f"{environment['machine']}, {environment['cores']} cores shared with the load generator")  # fmt: skip
    print(table(cases, bench.answers))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"environment": environment, "cases": cases}, indent=1) + "\n")
    print(f"\nall rounds: {options.output}")


if __name__ == "__main__":
    main()
