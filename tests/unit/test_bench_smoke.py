"""The bench works: a short round of all cases on little data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(300)
def test_a_quick_round_measures_every_case_beside_the_bare_answer(repo: Path, tmp_path: Path) -> None:
    """OPS-9: each case has requests, CPU time and latencies for the server and for the bare application."""
    output = tmp_path / "bench.json"
    generator = "wrk" if shutil.which("wrk") else "python"
    command = [sys.executable, "-m", "tests.bench", "--quick", "--loadgen", generator, "--output", str(output)]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = json.loads(output.read_text())["cases"]
    assert list(cases) == ["get", "list", "create", "search", "login", "mixed"]
    for case, found in cases.items():
        for name in ("server", "bare"):
            figures = found[name]
            assert figures["requests"] > 0, case
            assert figures["cpu_us"] > 0, case
            assert 0 < figures["p50_ms"] <= figures["p99_ms"], case
        assert found["ratio"]["cpu"]["median"] > 0, case
    assert "CPU × bare's" in done.stdout
