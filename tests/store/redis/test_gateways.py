"""Two gateways in front of one service (GATE-3)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import httpx
from starlette.types import ASGIApp

from taskman_sdk import contract
from taskman_server.gateway.app import Gateway
from taskman_server.gateway.pages import pages
from taskman_server.kit.operations import Health
from taskman_server.kit.rpc import LocalChannel
from tests.contract.probe import Probe, running_probe
from tests.store.redis.conftest import Connect


async def _healthy() -> Health:
    return Health({})


async def _gateway(probe: Probe, connect: Connect) -> Gateway:
    runtime = probe.runtime
    beside: ASGIApp = pages(_healthy, runtime.telemetry.registry, "http://taskman.example")
    return Gateway(
        runtime.channels, runtime.authenticator, runtime.guard, runtime.settings, runtime.clock, runtime.telemetry,
        beside, probe.service.methods.values(), redis=await connect("gateway"),
    )  # fmt: skip


async def test_an_address_has_one_limit_at_all_gateways(
    service: contract.Service, tmp_path: Path, connect: Connect
) -> None:
    """GATE-3: 429 with `Retry-After` when the gateways together have let through what is allowed."""
    async with running_probe(service, tmp_path, rate_limit="6/h") as probe:
        probe.runtime.channels.add("probe", LocalChannel(probe.pipeline))
        answers = []
        for number in range(8):
            gateway = await _gateway(probe, connect)  # each a new one, as if balanced over eight
            transport = httpx.ASGITransport(gateway)
            async with httpx.AsyncClient(transport=transport, base_url="http://taskman.example") as http:
                answers.append(await http.get(f"/v1/probes/{number}:look"))
    assert Counter(answer.status_code for answer in answers) == {200: 6, 429: 2}
    assert [answer.headers["ratelimit"].partition(";t=")[0] for answer in answers[:6]] == [
        f'"default";r={left}' for left in (5, 4, 3, 2, 1, 0)
    ]
    assert 500 < int(answers[-1].headers["retry-after"]) <= 600
