"""The bench works: a short round of all cases on little data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from taskman_server.settings import SERVICES
from tests.bench import metrics

_PLAIN = {"get", "list", "create"}


@pytest.mark.timeout(300)
def test_a_quick_round_measures_every_case_beside_the_others(repo: Path, tmp_path: Path) -> None:
    """OPS-9: each case has requests, CPU time and latencies for the server and for the bare application; what the plain
    application answers too has its own."""
    output = tmp_path / "bench.json"
    generator = "wrk" if shutil.which("wrk") else "python"
    command = [sys.executable, "-m", "tests.bench", "--quick", "--loadgen", generator, "--output", str(output)]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = json.loads(output.read_text())["cases"]
    assert list(cases) == ["get", "list", "create", "search", "login", "mixed", "write"]
    for case, found in cases.items():
        others = {"bare", "plain"} if case in _PLAIN else {"bare"}
        assert set(found["ratio"]) == others, case
        for name in ("server", *others):
            figures = found[name]
            assert figures["requests"] > 0, case
            assert figures["cpu_us"] > 0, case
            assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["p999_ms"], case
            by_process = found["rounds"][0][name]["cpu_us_by_process"]
            assert sum(by_process.values()) == pytest.approx(figures["cpu_us"], abs=1), case
        for name in others:
            for figure in ("requests_per_second", "cpu", "p50", "p99", "p999"):
                assert found["ratio"][name][figure]["median"] > 0, case
    assert 0 < cases["get"]["metrics"]["cache_hit_rate"] <= 1
    assert 0 < cases["list"]["metrics"]["query_p95_ms"] < 1000
    assert {"tasks/read", "tasks/write", "tasks/commit"} <= cases["create"]["metrics"]["query_p95s_ms"].keys()
    assert "server ×" in done.stdout


@pytest.mark.timeout(300)
def test_a_quick_round_measures_the_cluster_by_process(repo: Path, tmp_path: Path) -> None:
    """OPS-9: eight processes together and each by itself, what they stand on apart, the metrics of all of them."""
    output = tmp_path / "bench.json"
    generator = "wrk" if shutil.which("wrk") else "python"
    command = [sys.executable, "-m", "tests.bench", "--shape", "cluster", "--quick", "--cases", "get"]
    command += ["--loadgen", generator, "--output", str(output)]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())["cases"]["get"]
    assert set(found["ratio"]) == {"bare"}
    measured = found["rounds"][0]["server"]
    by_name = {process.rpartition(" ")[2]: cpu for process, cpu in measured["cpu_us_by_process"].items()}
    assert {"gateway", *SERVICES} <= set(by_name)
    assert sum(by_name.values()) == pytest.approx(measured["cpu_us"], abs=1)
    assert by_name["gateway"] > 0
    assert by_name["tasks"] > 0
    assert set(measured["cpu_us_of_parts"]) == {"postgresql", "rabbitmq", "redis"}
    assert {"gateway/tokens", "tasks/tokens", "tasks/tasks"} <= set(found["metrics"]["cache_hit_rates"])
    assert "tasks/read" in found["metrics"]["query_p95s_ms"]


@pytest.mark.timeout(300)
def test_a_quick_overload_is_answered_or_refused_and_over_at_its_end(repo: Path, tmp_path: Path) -> None:
    """GATE-9: nothing else than answers and refusals comes of it, no connection is lost, and then all is as before."""
    output = tmp_path / "overload.json"
    command = [sys.executable, "-m", "tests.bench.overload", "--rounds", "1", "--seconds", "1", "--times", "3"]
    command += ["--tasks", "60", "--people", "10", "--connections", "400", "--output", str(output)]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(output.read_text())["rounds"]
    for phase in ("peak", "80 %", "3 times"):
        assert found[phase]["goodput"] > 0, phase
        assert found[phase]["statuses"].keys() <= {"200", "201", "503"}, phase
        assert found[phase]["lost"] == 0, phase
    assert found["recovered_after_s"] is not None


def test_a_percentile_is_read_out_of_the_buckets_that_the_server_counts_in() -> None:
    """OPS-9: of 100 queries the 95th took between 10 and 20 ms, half way; hits and misses make a rate."""
    seen: metrics.Seen = Counter({
        ("query", "tasks/read", "0.01"): 90,
        ("query", "tasks/read", "0.02"): 100,
        ("query", "tasks/read", "+Inf"): 100,
        ("query", "tasks/commit", "0.01"): 0,
        ("query", "tasks/commit", "0.02"): 100,
        ("query", "tasks/commit", "+Inf"): 100,
        ("cache", "iam/roles", "hit"): 3,
        ("cache", "iam/roles", "miss"): 1,
    })  # fmt: skip
    figures = metrics.figures(seen)
    assert figures["query_p95_ms"] == 15.0
    assert figures["query_p95s_ms"] == {"tasks/commit": 19.5, "tasks/read": 15.0}
    assert figures["cache_hit_rates"] == {"iam/roles": 0.75}
    nothing = metrics.figures(Counter())
    assert nothing["cache_hit_rate"] is None
    assert nothing["query_p95_ms"] is None
