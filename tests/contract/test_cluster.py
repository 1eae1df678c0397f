"""What only the cluster shape promises: one trace over all processes, health of each, processes that come back."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import Any

import httpx
import psutil
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from taskman_sdk.errors import UnavailableError
from taskman_server.settings import SERVICES
from tests.contract.servers import ClusterProcess
from tests.contract.waiting import eventually
from tests.contract.world import PASSWORD, Site, project_key, unique
from tests.parts.otlp import OtlpReceiver


def _child(cluster: ClusterProcess, name: str) -> psutil.Process:
    children = psutil.Process(cluster.process.pid).children()
    (found,) = (each for each in children if each.cmdline()[-1:] == [name])
    return found


async def _health(cluster: ClusterProcess, service: str) -> Any:
    async with httpx.AsyncClient(trust_env=False) as http:
        port = cluster.operations + SERVICES.index(service)
        return (await http.get(f"http://127.0.0.1:{port}/readyz")).json()


async def test_a_task_is_one_trace_from_the_edge_to_its_last_consumer(
    cluster: ClusterProcess, cluster_rest: Site, traces: OtlpReceiver
) -> None:
    """OPS-5, EVENT-4: HTTP → gRPC → SQL → broker → consumers in four processes, parents before children."""
    trace_id = os.urandom(16).hex()
    ann, bob = await cluster_rest.new_person("Ann"), await cluster_rest.new_person("Bob")
    project = await ann.project(key=project_key())
    await ann.add(project["id"], bob)
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    request = {"task": {"project": project["id"], "title": "Traced", "assignees": [bob.id]}}
    await ann.call("TaskService.CreateTask", request, headers)
    wanted = {
        ("gateway", "POST /v1/tasks"),
        ("tasks", "/taskman.task.v1.TaskService/CreateTask"),
        ("tasks", "write"),
        ("tasks", "commit"),
        ("tasks", "publish task.created"),
        ("tasks", "publish task.assigned"),
        ("audit", "process task.created"),
        ("notifications", "process task.assigned"),
    }

    async def arrived() -> list[Span] | None:
        spans = traces.trace(trace_id)
        return spans if wanted <= {(traces.service(span), span.name) for span in spans} else None

    spans = await eventually(arrived, "the spans of all processes", seconds=20)
    by_id = {span.span_id: span for span in spans}
    (edge,) = (span for span in spans if span.name == "POST /v1/tasks")
    assert edge.parent_span_id.hex() == "00f067aa0ba902b7"
    orphans = [span.name for span in spans if span is not edge and span.parent_span_id not in by_id]
    assert orphans == []
    (create,) = (span for span in spans if span.name.endswith("/CreateTask"))
    assert by_id[create.parent_span_id] is edge
    assert {by_id[span.parent_span_id].name for span in spans if span.name.startswith(("publish", "process"))} == {
        create.name
    }
    assert not any(secret in str(span) for span in spans for secret in (PASSWORD, ann.token))


async def test_every_process_says_how_it_is_and_what_it_measures(cluster: ClusterProcess, cluster_rest: Site) -> None:
    """OPS-5: RED for each RPC, pool, queries, backlog and queues of each service; the gateway's own beside them."""
    await cluster_rest.admin()
    async with httpx.AsyncClient(trust_env=False) as http:
        for offset, service in enumerate(SERVICES):
            address = f"http://127.0.0.1:{cluster.operations + offset}"
            assert (await http.get(f"{address}/healthz")).json() == {"status": "ok"}

            async def metrics(address: str = address, service: str = service) -> str | None:
                text = (await http.get(f"{address}/metrics")).text
                wanted = (
                    rf'taskman_database_pool_max{{service="{service}"}} 10\.0',
                    rf'taskman_database_query_seconds_count{{kind="\w+",service="{service}"}}',
                    rf'taskman_outbox_backlog{{service="{service}"}} ',
                    rf'taskman_dependency_up{{dependency="broker",service="{service}"}} 1\.0',
                )
                return text if all(re.search(each, text) for each in wanted) else None

            text = await eventually(metrics, f"the metrics of {service}", seconds=20)
            if service in ("audit", "authentication", "authorization", "iam", "notifications"):
                assert f'taskman_queue_messages{{queue="{service}.' in text
        edge = (await http.get(f"{cluster.url}/metrics")).text
        assert 'taskman_http_duration_seconds_count{route="AuthenticationService.Login"}' in edge
        assert 'taskman_dependency_up{dependency="tasks",service="gateway"} 1.0' in edge


async def test_logs_are_lines_of_json_with_the_trace_and_the_request(
    cluster: ClusterProcess, cluster_rest: Site
) -> None:
    """OPS-5: one line a request at the edge that leads to its trace, and no password or token anywhere."""
    ann = await cluster_rest.new_person("Ann")
    request_id, trace_id = unique("logged-"), os.urandom(16).hex()
    headers = {"x-request-id": request_id, "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    await ann.call("UserService.GetMe", {}, headers)

    async def line() -> Any:
        lines = [json.loads(text) for text in cluster.stderr.read_text().splitlines() if request_id in text]
        return next((each for each in lines if each["event"] == "request"), None)

    found = await eventually(line, "the line of the request")
    assert found["trace_id"] == trace_id
    assert (found["route"], found["status"], found["principal"]) == ("UserService.GetMe", 200, ann.id)
    logged = cluster.stderr.read_text() + cluster.stdout.read_text()
    assert ann.token not in logged
    assert PASSWORD not in logged


@pytest.mark.parametrize("service", ["tasks", "authentication"])
async def test_a_killed_process_is_started_again_and_nobody_needs_to_help(
    cluster: ClusterProcess, cluster_rest: Site, service: str
) -> None:
    """OPS-2: the supervisor notices, the gateway finds the new process, and what was signed in stays signed in."""
    ann = await cluster_rest.new_person("Ann")
    before = _child(cluster, service)
    before.send_signal(signal.SIGKILL)

    async def another() -> bool:
        return _child(cluster, service).pid != before.pid and (await _health(cluster, service))["status"] == "ok"

    await eventually(another, f"another {service}", seconds=60, ignore=(ValueError, httpx.TransportError, psutil.Error))

    async def works() -> bool:
        return bool(await ann.project(key=project_key()))

    assert await eventually(works, "an answer", seconds=20, ignore=(UnavailableError,))
