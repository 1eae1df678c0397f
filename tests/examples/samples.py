"""Metrics in the form that Prometheus reads, as the processes and exporters of the Compose project give them."""

from __future__ import annotations

import re

# name, labels, and whether it is a counter. Histograms are made of `_BUCKETS`.
_SERIES = [
    ("taskman_rpc_calls_total", 'service="TaskService",method="GetTask",code="OK"', 100),
    ("taskman_rpc_calls_total", 'service="TaskService",method="GetTask",code="INTERNAL"', 1),
    ("taskman_http_requests_total", 'route="/v1/tasks",status="200"', 100),
    ("taskman_http_requests_total", 'route="/v1/tasks",status="500"', 1),
    ("taskman_cache_requests_total", 'service="authorization",cache="decisions",result="hit"', 90),
    ("taskman_cache_requests_total", 'service="authorization",cache="decisions",result="miss"', 10),
    ("taskman_redis_commands_total", 'service="tasks",outcome="ok"', 100),
    ("taskman_broker_messages_total", 'service="audit",queue="audit.task",outcome="done"', 10),
    ("taskman_database_pool_connections", 'service="tasks",state="busy"', 0),
    ("taskman_database_pool_connections", 'service="tasks",state="idle"', 0),
    ("taskman_database_pool_max", 'service="tasks"', 0),
    ("taskman_outbox_backlog", 'service="tasks"', 0),
    ("taskman_outbox_oldest_seconds", 'service="tasks"', 0),
    ("taskman_queue_messages", 'queue="audit.task",state="ready"', 0),
    ("taskman_queue_messages", 'queue="audit.task",state="dead"', 0),
    ("taskman_dependency_up", 'service="tasks",dependency="redis"', 0),
    ("taskman_dependency_up", 'service="tasks",dependency="broker"', 0),
    ("node_cpu_seconds_total", 'cpu="0",mode="idle"', 0.5),
    ("node_cpu_seconds_total", 'cpu="0",mode="user"', 0.5),
    ("node_load1", "", 0),
    ("node_memory_MemAvailable_bytes", "", 0),
    ("node_memory_MemTotal_bytes", "", 0),
    ("node_vmstat_pgmajfault", "", 1),
    ("node_filesystem_avail_bytes", 'mountpoint="/",fstype="ext4",device="/dev/sda1"', 0),
    ("node_filesystem_size_bytes", 'mountpoint="/",fstype="ext4",device="/dev/sda1"', 0),
    ("node_disk_io_time_seconds_total", 'device="sda"', 0.1),
    ("node_network_receive_bytes_total", 'device="eth0"', 1000),
    ("node_network_transmit_bytes_total", 'device="eth0"', 1000),
    ("node_network_receive_errs_total", 'device="eth0"', 0),
    ("node_network_receive_drop_total", 'device="eth0"', 0),
    ("node_network_transmit_errs_total", 'device="eth0"', 0),
    ("node_network_transmit_drop_total", 'device="eth0"', 0),
    ("pg_stat_activity_count", 'datname="taskman_tasks",state="idle"', 0),
    ("pg_settings_max_connections", "", 0),
    ("pg_stat_database_xact_commit", 'datname="taskman_tasks"', 5),
    ("pg_stat_database_xact_rollback", 'datname="taskman_tasks"', 1),
    ("pg_stat_database_blks_hit", 'datname="taskman_tasks"', 99),
    ("pg_stat_database_blks_read", 'datname="taskman_tasks"', 1),
    ("pg_stat_database_deadlocks", 'datname="taskman_tasks"', 0),
    ("pg_database_size_bytes", 'datname="taskman_tasks"', 0),
    ("rabbitmq_process_resident_memory_bytes", "", 0),
]
_HISTOGRAMS = [
    ("taskman_rpc_duration_seconds", 'service="TaskService",method="GetTask"'),
    ("taskman_redis_duration_seconds", 'service="tasks"'),
    ("taskman_http_duration_seconds", 'route="/v1/tasks"'),
    ("taskman_database_query_seconds", 'service="tasks",kind="read"'),
]
_BUCKETS = {"0.05": 90, "0.2": 95, "0.5": 99, "1.0": 100, "+Inf": 100}

KNOWN_METRICS = {name for name, _, _ in _SERIES}
"""What node_exporter, postgres_exporter and RabbitMQ give, beside our own."""


def sample(seconds: float) -> str:
    """A page of metrics; counters have grown since an earlier one."""
    lines = []
    for name, labels, growth in _SERIES:
        value = growth * seconds if growth else 1
        lines.append(f"{name}{{{labels}}} {value}" if labels else f"{name} {value}")
    for name, labels in _HISTOGRAMS:
        lines += [f'{name}_bucket{{{labels},le="{le}"}} {share * seconds}' for le, share in _BUCKETS.items()]
        lines.append(f"{name}_count{{{labels}}} {100 * seconds}")
        lines.append(f"{name}_sum{{{labels}}} {2 * seconds}")
    # Each name once in a row, as the format wants it.
    lines.sort(key=lambda line: re.split(r"[{ ]", line)[0])
    return "\n".join(lines) + "\n"
