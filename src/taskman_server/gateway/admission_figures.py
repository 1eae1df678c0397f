"""What a process's door has to say to the metrics: plain numbers, read when the metrics are (GATE-9, OPS-5)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from taskman_server.gateway.admission import Admission

__all__ = ["Figures", "figures"]

_GAUGES: Final = {
    "inflight": ("", "Requests under way."),
    "limit": ("", "Requests that may be under way."),
    "lag": ("_seconds", "How late the event loop was."),
    "overloaded": ("", "1 while there is an overload."),
}


class Figures(Collector):
    """Attributes:
    doors: by the name of the service.
    """

    def __init__(self) -> None:
        self.doors: dict[str, Admission] = {}

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        labels = ["service", "priority", "reason"]
        queued = GaugeMetricFamily("taskman_admission_queued", "Requests that wait for a place.", labels=labels[:2])
        refused = CounterMetricFamily("taskman_admission_refused", "Requests refused, by reason.", labels=labels)
        for service, door in self.doors.items():
            for priority, number in door.queued().items():
                queued.add_metric([service, priority.name.lower()], number)
            for (priority, reason), number in door.refused.items():
                refused.add_metric([service, priority.name.lower(), reason], number)
        yield from (queued, refused)
        for attribute, (unit, text) in _GAUGES.items():
            family = GaugeMetricFamily(f"taskman_admission_{attribute}{unit}", text, labels=labels[:1])
            for service, door in self.doors.items():
                family.add_metric([service], float(getattr(door, attribute)))
            yield family


@cache
def figures(registry: CollectorRegistry) -> Figures:
    """The one of a registry."""
    made = Figures()
    registry.register(made)
    return made
