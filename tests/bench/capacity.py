"""`python -m tests.bench.capacity`: from measured CPU a request to processors, pods and dollars a month (OPS-9).

Reads what `tests.bench` wrote, of one shape or of several, and prints Markdown; `docs/explanation/capacity.md` has the
formula and what each assumption rests on.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from taskman_server.settings import SERVICES
from tests.bench.growth_report import write_between

__all__ = ["BUDGET", "MIXES", "Assumed", "Shape", "main", "need", "read", "tables"]

MIXES: Final[Mapping[str, Mapping[str, float]]] = {
    "usual": {"get": 0.70, "list": 0.15, "search": 0.05, "create": 0.098, "login": 0.002},
    "mostly reads": {"get": 0.85, "list": 0.10, "search": 0.03, "create": 0.019, "login": 0.001},
    "many lists": {"get": 0.40, "list": 0.40, "search": 0.10, "create": 0.098, "login": 0.002},
    "many writes": {"get": 0.55, "list": 0.14, "search": 0.05, "create": 0.258, "login": 0.002},
}
"""Shares of the requests. A sign-in lasts for some 500 requests."""
BUDGET: Final[Mapping[str, float]] = {
    "Kubernetes cluster": 500, "PostgreSQL": 800, "Redis": 400, "RabbitMQ": 300, "Kong": 200, "Monitoring": 150,
}  # fmt: skip
"""The architecture's estimate, dollars a month."""
_HOURS: Final = 730  # a month
_SERVICES: Final = frozenset((*SERVICES, "gateway"))


@dataclass(frozen=True, slots=True)
class Assumed:
    """What is not measured.

    Attributes:
        rate: requests a second at the peak.
        utilisation: of a processor at the peak.
        pod_hour: dollars for a pod of one processor, for an hour.
        pods: the fewest that a service of a cluster has.
        database: processors of PostgreSQL that the budget pays for: two in each of eight instances.
        database_step: dollars a month for each further one of such instances.
        mean: the month's mean load as a part of the peak, for traffic.
        traffic: dollars a gigabyte.
    """

    rate: float = 10_000
    utilisation: float = 0.6
    pod_hour: float = 0.05
    pods: int = 2
    database: int = 16
    database_step: float = 100
    mean: float = 0.2
    traffic: float = 0.10

    @property
    def pod(self) -> float:
        """Dollars a month for a pod."""
        return self.pod_hour * _HOURS


_USUAL: Final = Assumed()


@dataclass(frozen=True, slots=True)
class Shape:
    """What was measured of a shape: CPU microseconds a request by case, of each of our processes by its name and of
    each part beside them; bytes of an answer by case."""

    name: str
    processes: Mapping[str, Mapping[str, float]]
    parts: Mapping[str, Mapping[str, float]]
    answer_bytes: Mapping[str, float]
    environment: Mapping[str, Any]

    @property
    def cpu(self) -> dict[str, float]:
        """Of all our processes."""
        return {case: sum(each[case] for each in self.processes.values()) for case in MIXES["usual"]}

    @property
    def embedded(self) -> bool:
        """Whether it is all there is: one machine without PostgreSQL, Redis and RabbitMQ."""
        return self.name == "embedded"


@dataclass(frozen=True, slots=True)
class Need:
    """What a mix takes at the peak.

    Attributes:
        cpu: microseconds a request, the mean of the mix.
        processors: busy up to the utilisation.
        pods: with one processor each.
        database: processors of PostgreSQL; 0 where none was measured.
        dollars: a month, traffic not counted.
        traffic: dollars a month.
    """

    cpu: float
    processors: float
    pods: int
    database: float
    dollars: float
    traffic: float


def read(path: Path) -> Shape:
    """A shape from the bench's file.

    Raises:
        SystemExit: a case of the mixes was not measured.
    """
    written = json.loads(path.read_text())
    cases: dict[str, Any] = written["cases"]
    if missing := MIXES["usual"].keys() - cases.keys():
        raise SystemExit(f"{path} has no {', '.join(sorted(missing))}: run the bench without --cases.")
    rounds = {case: [each["server"] for each in cases[case]["rounds"]] for case in MIXES["usual"]}
    environment = written["environment"]
    return Shape(
        environment["options"].get("shape", "embedded"),
        _by_name(rounds, "cpu_us_by_process"),
        _by_name(rounds, "cpu_us_of_parts"),
        {case: cases[case].get("answer_bytes", 0) for case in rounds},
        environment,
    )


def _by_name(rounds: Mapping[str, Sequence[Mapping[str, Any]]], figure: str) -> dict[str, dict[str, float]]:
    """Of the figure by "PID NAME" or name: medians of the rounds by name and case."""
    sums: dict[str, dict[str, list[float]]] = {}
    for case, each in rounds.items():
        for number, measured in enumerate(each):
            for process, cpu in measured.get(figure, {}).items():
                of_name = sums.setdefault(process.rpartition(" ")[2], {})
                of_name.setdefault(case, [0.0] * len(each))[number] += cpu
    return {name: {case: median(of.get(case, [0.0])) for case in rounds} for name, of in sums.items()}


def need(shape: Shape, mix: Mapping[str, float], assumed: Assumed) -> Need:
    """What the shape takes for the mix."""

    def mean(values: Mapping[str, float]) -> float:
        return sum(share * values[case] for case, share in mix.items())

    def processors(cpu: float) -> float:
        return assumed.rate * cpu / 1e6 / assumed.utilisation

    cpu, database = mean(shape.cpu), mean(shape.parts.get("postgresql", dict.fromkeys(mix, 0.0)))
    gigabytes = assumed.rate * assumed.mean * _HOURS * 3600 * mean(shape.answer_bytes) / 1e9
    if shape.embedded:
        pods = math.ceil(processors(cpu))
        dollars = pods * assumed.pod + BUDGET["Monitoring"]
    else:
        services = [mean(of) for name, of in shape.processes.items() if name in _SERVICES]
        pods = sum(max(assumed.pods, math.ceil(processors(each))) for each in services)
        dollars = sum(BUDGET.values()) + max(0.0, pods * assumed.pod - BUDGET["Kubernetes cluster"])
        dollars += math.ceil(max(0.0, processors(database) - assumed.database) / 2) * assumed.database_step
    return Need(cpu, processors(cpu), pods, processors(database), dollars, gigabytes * assumed.traffic)


def _affordable(shape: Shape, assumed: Assumed) -> float:
    """CPU microseconds a request at which all of the budget is used."""
    lines = BUDGET["Kubernetes cluster"] if not shape.embedded else sum(BUDGET.values()) - BUDGET["Monitoring"]
    return lines // assumed.pod * assumed.utilisation / assumed.rate * 1e6


def tables(shapes: Sequence[Shape], assumed: Assumed) -> str:
    """The figures in Markdown: for the usual mix, then what other mixes, prices and reserves make of them."""
    usual = MIXES["usual"]
    needs = [need(shape, usual, assumed) for shape in shapes]
    total = sum(BUDGET.values())
    rows: list[tuple[str, list[str]]] = [
        (f"`{case}`, {share:.1%} of the requests, CPU µs", [f"{shape.cpu[case]:,.0f}" for shape in shapes])
        for case, share in usual.items()
    ]
    rows += [
        ("mean of the mix, CPU µs", [f"**{each.cpu:,.0f}**" for each in needs]),
        (
            f"processors for {assumed.rate:,.0f} requests a second at {assumed.utilisation:.0%}",
            [f"{each.processors:,.1f}" for each in needs],
        ),
        ("pods of one processor", [f"{each.pods:,}" for each in needs]),
        ("processors of PostgreSQL beside them", [f"{each.database:,.1f}" if each.database else "–" for each in needs]),
        ("dollars a month", [f"**{each.dollars:,.0f}**" for each in needs]),
        (f"of the budget of {total:,.0f}", [f"{each.dollars / total:.0%}" for each in needs]),
        ("CPU µs that the budget pays for", [f"{_affordable(shape, assumed):,.0f}" for shape in shapes]),
        (
            f"traffic at a mean of {assumed.mean:.0%} of the peak, dollars",
            [f"{each.traffic:,.0f}" if each.traffic else "–" for each in needs],
        ),
    ]
    others = [(f"mix: {name}", mix, assumed) for name, mix in MIXES.items() if mix is not usual]
    others += [
        (f"${price:g} for a pod and hour", usual, replace(assumed, pod_hour=price))
        for price in (assumed.pod_hour / 2, assumed.pod_hour * 2)
    ]
    others += [(f"{part:.0%} utilisation", usual, replace(assumed, utilisation=part)) for part in (0.4, 0.75)]
    others += [
        (f"processors {times} as fast", usual, replace(assumed, utilisation=assumed.utilisation * speed))
        for times, speed in (("half", 0.5), ("1.5 times", 1.5))
    ]
    varied = [
        (name, [f"{got.pods:,} pods, {got.dollars:,.0f} $" for got in (need(shape, mix, given) for shape in shapes)])
        for name, mix, given in others
    ]
    names = [shape.name for shape in shapes]
    measured = "\n".join(f"*{shape.name}*: {_where(shape.environment)}" for shape in shapes)
    return "\n\n".join([measured, _table("usual mix", names, rows), _table("with", names, varied)])


def _where(environment: Mapping[str, Any]) -> str:
    options = environment.get("options", {})
    rounds = f"median of {options.get('rounds', '?')} × {options.get('seconds', '?')} s"
    data = f"{options.get('tasks', 0):,} tasks, {options.get('people', 0):,} people"
    return f"commit `{environment.get('commit', '?')}`, {environment.get('machine', '?')}, {data}, {rounds}."


def _table(title: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    head = [f"| {title} | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    return "\n".join([*head, *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows)])


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.capacity", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="what the bench wrote")
    parser.add_argument("--rate", type=float, default=_USUAL.rate, help="requests a second")
    parser.add_argument("--utilisation", type=float, default=_USUAL.utilisation)
    parser.add_argument("--pod-hour", type=float, default=_USUAL.pod_hour, help="dollars")
    parser.add_argument("--page", type=Path, help="put the tables into this page")
    given = parser.parse_args(arguments)
    shapes = [read(path) for path in given.files]
    assumed = Assumed(rate=given.rate, utilisation=given.utilisation, pod_hour=given.pod_hour)
    text = tables(shapes, assumed)
    print(text)
    if given.page is not None:
        write_between(given.page, "capacity", text)


if __name__ == "__main__":
    main()
