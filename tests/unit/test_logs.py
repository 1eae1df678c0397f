"""What the log shows, and what it never shows (OPS-5)."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime

PROGRAM = """
import logging, structlog
from taskman_server.kit.logs import configure
configure("info", "json")
log = structlog.get_logger(service="tasks")
log.info("signed in", password="hunter2", authorization="Bearer abc", Refresh_Token="r", user="user_1")
logging.getLogger("alembic.runtime.migration").info("Running upgrade")
logging.getLogger("httpx").info("GET https://example.org/reset?token=abc")
logging.getLogger("somewhere").warning("a library's line")
try:
    raise ValueError("bad")
except ValueError as error:
    log.error("fault", exc_info=error)
"""


def _lines() -> list[dict[str, object]]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "", "the log goes to standard error alone"
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_every_line_is_json_and_holds_no_secret() -> None:
    """OPS-5: secrets of the contract and of HTTP are redacted by name, in any case; libraries' lines are JSON too."""
    lines = _lines()
    assert [line["event"] for line in lines] == ["signed in", "a library's line", "fault"]
    first = lines[0]
    assert (first["service"], first["user"], first["level"]) == ("tasks", "user_1", "info")
    assert {first[name] for name in ("password", "authorization", "Refresh_Token")} == {"[redacted]"}
    assert "hunter2" not in json.dumps(lines)
    assert "ValueError: bad" in str(lines[2]["exception"])


REQUESTS = r"""
import asyncio, sys
from prometheus_client import CollectorRegistry
from taskman_server.kit.logs import configure
from taskman_server.kit.telemetry import Telemetry
configure(sys.argv[1], sys.argv[2])

async def main():
    telemetry = Telemetry("gateway", CollectorRegistry())
    for number, status in enumerate((200, 404, 503)):
        telemetry.request(
            verb="GET", route="TaskService.GetTask", path='/v1/"ta\nsk"\x00\u2028é', status=status, seconds=0.00123,
            principal="user_1", request_id=f"r{number}", ip_address="::1", reason="GONE" if status == 404 else "",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" if status == 200 else "",
        )
    telemetry.log.info("later")
    await asyncio.sleep(0)

asyncio.run(main())
"""


def _requests(level: str, form: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", REQUESTS, level, form], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stderr


def test_the_line_of_a_request_is_json_whatever_a_client_sent() -> None:
    """OPS-5, GATE-7: it is written by hand, so each key and character that could break it is looked at."""
    lines = [json.loads(line) for line in _requests("info", "json").splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["status"], line["level"]) for line in requests] == [(200, "info"), (404, "info"), (503, "warning")]
    first, second, third = requests
    assert first == {
        "service": "gateway", "verb": "GET", "route": "TaskService.GetTask", "path": '/v1/"ta\nsk"\x00\u2028é',
        "status": 200, "ms": 1.23, "principal": "user_1", "request_id": "r0", "ip": "::1",
        "trace_id": "0af7651916cd43dd8448eb211c80319c", "event": "request", "level": "info",
        "timestamp": first["timestamp"],
    }  # fmt: skip
    assert (second["reason"], "reason" in third, "trace_id" in third) == ("GONE", False, False)
    later = next(line for line in lines if line["event"] == "later")
    made = (
        datetime.fromisoformat(str(first["timestamp"])).tzinfo,
        datetime.fromisoformat(str(later["timestamp"])).tzinfo,
    )
    assert made == (UTC, UTC), "both kinds of lines tell the time alike"


def test_a_level_above_info_leaves_out_the_lines_of_requests_that_went_well() -> None:
    """OPS-5: and people get text on their terminal."""
    lines = [json.loads(line) for line in _requests("warning", "json").splitlines()]
    assert [(line["event"], line["status"]) for line in lines] == [("request", 503)]
    text = _requests("info", "text")
    assert text.count("request_id=r") == 3
    assert not text.startswith("{")
