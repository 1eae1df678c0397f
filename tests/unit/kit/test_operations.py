"""Metrics of several processes as one (OPS-5)."""

from __future__ import annotations

import json

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from taskman_server.kit.operations import samples_of, summed


def _registry(cases: dict[str, int], seconds: list[float]) -> CollectorRegistry:
    registry = CollectorRegistry()
    counter = Counter("requests", "Requests.", ["route"], registry=registry)
    histogram = Histogram("seconds", "Time.", buckets=(0.1, 1), registry=registry)
    for route, number in cases.items():
        counter.labels(route).inc(number)
    for each in seconds:
        histogram.observe(each)
    return registry


def test_what_processes_count_is_added_up() -> None:
    """One scrape sees all of them, whichever process answers it."""
    one = _registry({"/a": 3, "/b": 1}, [0.05, 0.5])
    two = _registry({"/a": 4, "/c": 5}, [0.05, 7])
    sent = json.loads(json.dumps([samples_of(one), samples_of(two)]))
    text = generate_latest(summed(sent)).decode()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    assert found == {
        ("requests_total", "/a"): 7,
        ("requests_total", "/b"): 1,
        ("requests_total", "/c"): 5,
        ("seconds_bucket", "0.1"): 2,
        ("seconds_bucket", "1.0"): 3,
        ("seconds_bucket", "+Inf"): 4,
        ("seconds_count",): 4,
        ("seconds_sum",): 7.6,
    }
    assert text.count("# TYPE requests_total counter") == 1


def test_one_process_alone_reads_as_before() -> None:
    registry = _registry({"/a": 3}, [0.05])
    assert generate_latest(summed([samples_of(registry), []])) == generate_latest(registry)
