"""What a server says of itself at `/metrics`: how often its caches knew, how long its database took."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Seen", "figures", "read"]

Seen = Counter[tuple[str, ...]]
"""How often, by ("cache", service and cache, hit or miss) and ("query", service and kind, bucket in seconds)."""
_CACHE = "taskman_cache_requests"
_QUERY = "taskman_database_query_seconds"


def read(*urls: str) -> Seen:
    """What the processes have counted since they started; nothing of one that has no such metrics."""
    seen: Seen = Counter()
    for url in urls:
        response = httpx.get(f"{url}/metrics", timeout=30)
        if not response.is_success:
            continue
        for family in text_string_to_metric_families(response.text):
            for sample in family.samples:
                labels = sample.labels
                if sample.name == f"{_CACHE}_total":
                    seen["cache", f"{labels['service']}/{labels['cache']}", labels["result"]] += int(sample.value)
                elif sample.name == f"{_QUERY}_bucket":
                    seen["query", f"{labels['service']}/{labels['kind']}", labels["le"]] += int(sample.value)
    return seen


def figures(seen: Seen) -> dict[str, Any]:
    """Hit rates and 95th percentiles (milliseconds), of all and of each; None where nothing was counted.

    Of all statements, that is; each kind has its own, a commit and the wait for a connection too. A percentile is
    interpolated within its bucket.
    """
    looks: dict[str, Counter[str]] = defaultdict(Counter)
    buckets: dict[str, Counter[float]] = defaultdict(Counter)
    for (kind, name, part), count in seen.items():
        if kind == "cache":
            looks[name][part] += count
            looks[""][part] += count
        else:
            buckets[name][float(part)] += count
            if name.endswith(("/read", "/write")):  # a commit and the wait for a connection are no statements
                buckets[""][float(part)] += count
    rates = {name: _rate(each) for name, each in looks.items()}
    p95 = {name: _p95(each) for name, each in buckets.items()}
    return {
        "cache_hit_rate": rates.pop("", None),
        "query_p95_ms": p95.pop("", None),
        "cache_hit_rates": {name: rate for name, rate in sorted(rates.items()) if rate is not None},
        "query_p95s_ms": {name: time for name, time in sorted(p95.items()) if time is not None},
    }


def _rate(looks: Mapping[str, int]) -> float | None:
    total = sum(looks.values())
    return round(looks.get("hit", 0) / total, 4) if total else None


def _p95(buckets: Mapping[float, int]) -> float | None:
    """Of cumulative counts by their upper bounds, as Prometheus has them."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]]
    if not total:
        return None
    wanted, below, low = 0.95 * total, 0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted:
            if bound == float("inf"):
                return round(1000 * low, 3)
            return round(1000 * (low + (bound - low) * (wanted - below) / (buckets[bound] - below)), 3)
        below, low = buckets[bound], bound
    return None
