"""What the log shows, and what it never shows (OPS-5)."""

from __future__ import annotations

import json
import subprocess
import sys

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
