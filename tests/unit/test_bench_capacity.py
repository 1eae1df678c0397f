"""The capacity model, on figures that the bench has recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taskman_server.settings import SERVICES
from tests.bench import capacity
from tests.bench.capacity import BUDGET, MIXES, Assumed, need, read, tables

RECORDED = Path(__file__).parent / "bench_recorded.json"


def test_the_mixes_are_whole_and_the_budget_is_the_architectures() -> None:
    """OPS-9: shares of every mix add up to one, of the same cases; $2,350 a month."""
    for mix in MIXES.values():
        assert sum(mix.values()) == pytest.approx(1)
        assert mix.keys() == MIXES["usual"].keys()
    assert sum(BUDGET.values()) == 2350


def cluster(folder: Path, rounds: int = 1, parts: float = 0.0) -> Path:
    """As a cluster's bench writes it: the recorded figures for the gateway, 8 µs for each service."""
    written: dict[str, Any] = json.loads(RECORDED.read_text())
    written["environment"]["options"]["shape"] = "cluster"
    for case in written["cases"].values():
        (process,) = case["rounds"][0]["server"]["cpu_us_by_process"].values()
        case["rounds"] = [
            {
                "server": {
                    "cpu_us_by_process": {
                        "1 python": 0.1,
                        "2 gateway": process + 100 * number,
                        **{f"{3 + place} {name}": 8.0 + 100 * number for place, name in enumerate(SERVICES)},
                    },
                    "cpu_us_of_parts": {"postgresql": parts, "rabbitmq": 1.0},
                }
            }
            for number in range(rounds)
        ]
    path = folder / "cluster.json"
    path.write_text(json.dumps(written))
    return path


def test_processors_pods_and_dollars_follow_from_the_cpu_of_a_request() -> None:
    """OPS-9: reckoned again by hand from the recorded figures."""
    cases = json.loads(RECORDED.read_text())["cases"]
    embedded = read(RECORDED)
    assert embedded.cpu == {case: pytest.approx(cases[case]["server"]["cpu_us"], abs=0.2) for case in MIXES["usual"]}
    found = need(embedded, {"get": 0.5, "list": 0.5}, Assumed())
    mean = (cases["get"]["server"]["cpu_us"] + cases["list"]["server"]["cpu_us"]) / 2
    assert found.cpu == pytest.approx(mean, abs=0.2)
    assert found.processors == pytest.approx(10_000 * mean / 1_000_000 / 0.6, rel=1e-3)
    assert found.processors <= found.pods < found.processors + 1
    assert found.dollars == pytest.approx(found.pods * 36.5 + 150)
    size = (cases["get"]["answer_bytes"] + cases["list"]["answer_bytes"]) / 2
    assert found.traffic == pytest.approx(2000 * size * 730 * 3600 / 1e9 * 0.1)


def test_a_cluster_has_whole_pods_of_each_service(tmp_path: Path) -> None:
    """OPS-9: two at least; the supervisor has none. What they cost beyond the budget's line is added to the budget."""
    shape = read(cluster(tmp_path))
    assert len(shape.processes) == 9
    usual, gateway = MIXES["usual"], need(read(RECORDED), MIXES["usual"], Assumed())
    found = need(shape, usual, Assumed())
    assert found.pods == 2 * len(SERVICES) + gateway.pods
    assert found.dollars == pytest.approx(2350 + found.pods * 36.5 - 500)
    assert need(shape, usual, Assumed(pod_hour=0.001)).dollars == 2350


def test_a_cluster_pays_for_a_larger_postgresql(tmp_path: Path) -> None:
    """OPS-9: 17.5 processors, where the budget has 16."""
    shape = read(cluster(tmp_path, parts=1050.0))
    found = need(shape, MIXES["usual"], Assumed(pod_hour=0.001))
    assert found.database == pytest.approx(17.5)
    assert found.dollars == 2450


def test_of_several_rounds_the_median_counts(tmp_path: Path) -> None:
    """OPS-9: for each process by itself."""
    shape = read(cluster(tmp_path, rounds=3))
    assert set(shape.processes["tasks"].values()) == {108.0}
    assert shape.parts["rabbitmq"] == dict.fromkeys(MIXES["usual"], 1.0)


def test_a_case_that_was_not_measured_is_named(tmp_path: Path) -> None:
    """OPS-9: no figures from half a bench."""
    written = json.loads(RECORDED.read_text())
    del written["cases"]["search"]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(written))
    with pytest.raises(SystemExit, match="search"):
        read(path)


def test_the_page_gets_the_tables_between_its_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """OPS-9: one command renews the page, as often as one likes."""
    page = tmp_path / "capacity.md"
    page.write_text("before\n<!-- capacity -->\nold\n<!-- /capacity -->\nafter\n")
    for _ in range(2):
        capacity.main([str(RECORDED), str(cluster(tmp_path)), "--page", str(page)])
    text = tables([read(RECORDED), read(tmp_path / "cluster.json")], Assumed())
    assert page.read_text() == f"before\n<!-- capacity -->\n\n{text}\n\n<!-- /capacity -->\nafter\n"
    assert text in capsys.readouterr().out
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {4}
    with pytest.raises(SystemExit, match="no <!-- capacity -->"):
        capacity.main([str(RECORDED), "--page", str(RECORDED)])
