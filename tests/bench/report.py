"""From measurements to figures: medians, ratios and their spread, for the file and for people."""

from __future__ import annotations

import base64
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench import metrics
from tests.bench.load import Result

__all__ = ["Measured", "line", "summary", "table"]

_RATIOS: Mapping[str, Callable[[Measured], float]] = {
    "requests_per_second": lambda measured: measured.result.rate,
    "cpu": lambda measured: measured.cpu,
    "p50": lambda measured: measured.result.p50,
    "p99": lambda measured: measured.result.p99,
    "p999": lambda measured: measured.result.p999,
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One of the three under one case for one round.

    Attributes:
        result: what the load generator saw.
        cpu_by_process: microseconds a request, work left behind included.
        seen: what its metrics counted meanwhile.
        parts: microseconds a request of PostgreSQL, RabbitMQ and Redis; not in `cpu`.
    """

    result: Result
    cpu_by_process: Mapping[str, float]
    seen: metrics.Seen = field(default_factory=Counter)
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def cpu(self) -> float:
        """Microseconds a request, of all processes."""
        return sum(self.cpu_by_process.values())

    def figures(self) -> dict[str, float]:
        """For the table and the file."""
        result = self.result
        return {
            "requests": result.requests,
            "requests_per_second": round(result.rate, 1),
            "cpu_us": round(self.cpu, 1),
            "p50_ms": round(result.p50, 3),
            "p99_ms": round(result.p99, 3),
            "p999_ms": round(result.p999, 3),
        }


def line(name: str, measured: Measured) -> str:
    """One measurement, while the bench runs."""
    return f"{name}{measured.result.rate:8,.0f} req/s {measured.cpu:7,.0f} µs"


def summary(rounds: Sequence[Mapping[str, Measured]]) -> dict[str, Any]:
    """Medians over the rounds with the least and the greatest; ratios are taken within a round, then the same."""
    found: dict[str, Any] = {}
    for name in rounds[0]:
        each = [measured[name].figures() for measured in rounds]
        found[name] = {key: statistics.median(figures[key] for figures in each) for key in each[0]}
        found[name]["spread"] = {
            key: {"min": min(figures[key] for figures in each), "max": max(figures[key] for figures in each)}
            for key in each[0]
        }
    found["ratio"] = {
        name: {
            key: _spread([figure(measured["server"]) / max(figure(measured[name]), 1e-9) for measured in rounds])
            for key, figure in _RATIOS.items()
        }
        for name in rounds[0]
        if name != "server"
    }
    seen: metrics.Seen = Counter()
    for measured in rounds:
        seen.update(measured["server"].seen)
    found["metrics"] = metrics.figures(seen)
    found["rounds"] = [
        {
            name: {
                **measured.figures(),
                "cpu_us_by_process": {process: round(cpu, 1) for process, cpu in measured.cpu_by_process.items()},
                "cpu_us_of_parts": {part: round(cpu, 1) for part, cpu in measured.parts.items()},
            }
            for name, measured in each.items()
        }
        for each in rounds
    ]
    return found


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def table(cases: Mapping[str, Any], answers: Mapping[str, Any]) -> str:
    """The figures for people: first as they are, then the server's beside the others'."""
    lines = [
        f"{'case':7} {'who':6} {'answer':>7} {'req/s (least–most)':>25} {'CPU µs':>8} {'p50 ms':>8} {'p99 ms':>8}"
        f" {'p99.9 ms':>8}  {'cache hits':>10} {'query p95 ms':>12}"
    ]
    for case, found in cases.items():
        size = f"{len(base64.b64decode(answers[case]['body'])):,}" if case in answers else ""
        for name in ("server", "plain", "bare"):
            if name not in found:
                continue
            each, spread = found[name], found[name]["spread"]["requests_per_second"]
            rate = f"{each['requests_per_second']:,.0f} ({spread['min']:,.0f}–{spread['max']:,.0f})"
            hits, p95 = (
                found["metrics"][key] if name == "server" else None for key in ("cache_hit_rate", "query_p95_ms")
            )
            lines.append(
                f"{case if name == 'server' else '':7} {name:6} {size if name != 'plain' else '':>7} {rate:>25}"
                f" {each['cpu_us']:8,.0f} {each['p50_ms']:8.2f} {each['p99_ms']:8.2f} {each['p999_ms']:8.2f}"
                f"  {'' if hits is None else f'{hits:.1%}':>10} {'' if p95 is None else f'{p95:.2f}':>12}".rstrip()
            )
    titles = ("req/s", "CPU", "p50", "p99", "p99.9")
    lines += ["", f"{'server ×':14} " + " ".join(f"{title:>22}" for title in titles)]
    for case, found in cases.items():
        for name, ratio in found["ratio"].items():
            lines.append(f"{case:7} {name:6} " + " ".join(f"{_times(ratio[key]):>22}" for key in _RATIOS))
    several = [
        f"{case:7} {name:6} " + " · ".join(shares)
        for case, found in cases.items()
        for name, each in found["rounds"][-1].items()
        if len(shares := _shares(each)) > 1
    ]
    if several:
        lines += ["", "CPU µs by process, last round; (in brackets) what the processes stand on", *several]
    return "\n".join(lines)


def _shares(measured: Mapping[str, Any]) -> list[str]:
    shares: list[str] = []
    for key, form in (("cpu_us_by_process", "{} {:,.0f}"), ("cpu_us_of_parts", "({} {:,.0f})")):
        dearest = sorted(measured[key].items(), key=lambda item: -item[1])
        shares += [form.format(process.rpartition(" ")[2], cpu) for process, cpu in dearest]
    return shares


def _times(ratio: Mapping[str, float]) -> str:
    digits = 4 if ratio["median"] < 0.1 else 2
    return f"{ratio['median']:.{digits}f} ({ratio['min']:.{digits}f}–{ratio['max']:.{digits}f})"
