"""Alerts, dashboards and Kong of the Compose project, checked by the programs that read them (OPS-5)."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from taskman_server.settings import SERVICES, Settings
from tests.examples import programs
from tests.examples.samples import KNOWN_METRICS, sample
from tests.parts.servers import Server, running

REPO = Path(__file__).resolve().parents[2]
COMPOSE = REPO / "examples" / "compose"
RULES: dict[str, Any] = yaml.safe_load((COMPOSE / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
TESTS = ("alerts.test.yaml", "objectives.test.yaml")
DASHBOARDS = sorted((COMPOSE / "grafana" / "dashboards").glob("*.json"))
METRIC = re.compile(r"\b(?:taskman|node|pg|rabbitmq)_[a-z_A-Z0-9]+")


def panels(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["panels"]
    return found


def queries(path: Path) -> list[str]:
    """The queries of a dashboard as Grafana sends them, with all services chosen."""
    found = [target["expr"] for panel in panels(path) for target in panel["targets"]]
    return [expr.replace("$__rate_interval", "1m").replace("$service", ".+") for expr in found]


# --- Prometheus and Alertmanager -------------------------------------------------------------------------------------


def test_prometheus_takes_its_configuration() -> None:
    """OPS-5: promtool, rules included; a rule that stands there twice is an error."""
    config = COMPOSE / "prometheus" / "prometheus.yml"
    assert "SUCCESS" in programs.check(programs.at(programs.PROMTOOL), "check", "config", config)


def test_every_process_is_asked_for_its_metrics() -> None:
    """OPS-5: eight targets, on the ports that the settings give them."""
    config = yaml.safe_load((COMPOSE / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "taskman")
    targets = {entry["labels"]["process"]: entry["targets"] for entry in job["static_configs"]}
    base = Settings().ops_port_base
    expected = {name: [f"{name}:{base + offset}"] for offset, name in enumerate(SERVICES)}
    assert targets == {**expected, "gateway": [f"gateway:{Settings().port}"]}


def test_the_five_rules_of_the_architecture_are_there_as_written() -> None:
    """OPS-5, OPEN-POINTS 16: limit and time of each."""
    (group,) = (group for group in RULES["groups"] if group["name"] == "architecture")
    found: dict[str, set[tuple[str, str]]] = {}
    for rule in group["rules"]:
        limit = re.search(r"> [\d.]+$", rule["expr"].strip())
        found.setdefault(rule["alert"], set()).add((limit[0] if limit else rule["expr"], rule.get("for", "")))
    assert found == {
        "ErrorRate": {("> 0.01", "5m")},
        "Latency": {("> 0.5", "10m")},
        "ServiceDown": {('up{job="taskman"} == 0', "1m"), ('absent(up{job="taskman"})', "1m")},
        "DatabaseConnections": {("> 0.8", "")},
        "DiskUsage": {("> 0.85", "")},
    }


@pytest.mark.parametrize("name", TESTS)
def test_each_alert_fires_when_it_should_and_not_before(name: str) -> None:
    """OPS-5: promtool's own tests of the rules."""
    folder = COMPOSE / "prometheus"
    assert "SUCCESS" in programs.check(programs.at(programs.PROMTOOL), "test", "rules", name, cwd=folder)


@pytest.mark.parametrize("broken", [{"expr": "vector(0) > 1"}, {"for": "0s"}], ids=["never", "at-once"])
@pytest.mark.parametrize("half", [0, 1])
def test_the_tests_of_alerts_notice_each_broken_rule(half: int, broken: dict[str, str], tmp_path: Path) -> None:
    """A rule that never fires, or fires at once, makes the tests of the rules fail: no rule is without one.

    Every second one is broken: rules of one name follow each other, and promtool tells names.
    """
    rules = json.loads(json.dumps(RULES))
    each = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule][half::2]
    touched = [rule for rule in each if "expr" in broken or "for" in rule]
    for rule in touched:
        rule.update(broken)
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    said = ""
    for name in TESTS:
        (tmp_path / name).write_text((COMPOSE / "prometheus" / name).read_text(encoding="utf-8"), encoding="utf-8")
        said += programs.run(programs.at(programs.PROMTOOL), "test", "rules", name, cwd=tmp_path)[1]
    assert {rule["alert"] for rule in touched} - set(re.findall(r"alertname: ?(\w+)", said)) == set()


def test_each_alert_says_what_and_what_to_do() -> None:
    for rule in ALERTS:
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_alertmanager_takes_its_configuration() -> None:
    """OPS-5: amtool; a page reaches the operators."""
    config = COMPOSE / "alertmanager" / "alertmanager.yml"
    amtool = programs.at(programs.AMTOOL)
    assert "SUCCESS" in programs.check(amtool, "check-config", config)
    routed = programs.check(amtool, "config", "routes", "test", f"--config.file={config}", "severity=page")
    assert routed.splitlines()[-1] == "operators"


# --- dashboards ------------------------------------------------------------------------------------------------------


def missing(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Where `given` has something that is not in `kept`."""
    if isinstance(given, dict):
        for key, value in given.items():
            if isinstance(kept, dict) and key in kept:
                yield from missing(value, kept[key], f"{path}/{key}")
            else:
                yield f"{path}/{key}"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for index, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from missing(one, other, f"{path}/{index}")
    elif given != kept:
        yield path


def lost(content: Any) -> list[str]:
    """What a dashboard loses when it is read as Grafana's schema says, and written again."""
    sdk = "grafana_foundation_sdk"
    plugins, encoder, dashboard = (
        programs.package(f"{sdk}.{name}", "grafana-foundation-sdk")
        for name in ("cog.plugins", "cog.encoder", "models.dashboard")
    )
    plugins.register_default_plugins()
    read = dashboard.Dashboard.from_json(content)
    return list(missing(content, json.loads(encoder.JSONEncoder(sort_keys=True).encode(read))))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_follows_grafanas_schema(path: Path) -> None:
    """OPS-5: read and written by the types that Grafana generates from its schema, it is the same."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert lost(content) == []
    assert content["uid"] == f"taskman-{path.stem}"


def test_a_wrong_dashboard_is_noticed() -> None:
    """The check above can fail."""
    content = json.loads(DASHBOARDS[0].read_text(encoding="utf-8"))
    content["panels"][0]["gridPos"]["widht"] = 3
    assert lost(content) == ["/panels/0/gridPos/widht"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_stand_side_by_side(path: Path) -> None:
    """None covers another, none leaves the 24 columns, each has an id of its own and asks the provisioned source."""
    (source,) = (
        each
        for each in yaml.safe_load((COMPOSE / "grafana/provisioning/datasources/datasources.yaml").read_text())[
            "datasources"
        ]
        if each["type"] == "prometheus"
    )
    taken: set[tuple[int, int]] = set()
    for panel in panels(path):
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {source["uid"]}
    assert len({panel["id"] for panel in panels(path)}) == len(panels(path))


def test_the_key_metrics_of_the_architecture_are_shown() -> None:
    """OPS-5: RED, USE, database connections and query time, cache hits, queue depth and processing."""
    assert {path.stem for path in DASHBOARDS} == {"red", "use", "cache", "queues", "database"}
    shown = {name for path in DASHBOARDS for query in queries(path) for name in METRIC.findall(query)}
    assert {
        "taskman_http_requests_total", "taskman_http_duration_seconds_bucket", "taskman_rpc_calls_total",
        "taskman_rpc_duration_seconds_bucket", "node_cpu_seconds_total", "node_memory_MemAvailable_bytes",
        "node_filesystem_avail_bytes", "node_network_receive_bytes_total", "taskman_database_pool_connections",
        "taskman_database_query_seconds_bucket", "taskman_cache_requests_total", "taskman_queue_messages",
        "taskman_broker_messages_total", "taskman_outbox_backlog",
    } <= shown  # fmt: skip


def test_only_metrics_that_exist_are_asked_for() -> None:
    """OPS-5: each metric of ours in a dashboard or a rule is named in the server's source."""
    source = "".join(path.read_text(encoding="utf-8") for path in (REPO / "src" / "taskman_server").rglob("*.py"))
    made = set(re.findall(r'"(taskman_[a-z_]+)"', source))
    asked = set(METRIC.findall(" ".join(rule["expr"] for group in RULES["groups"] for rule in group["rules"])))
    asked |= {name for path in DASHBOARDS for query in queries(path) for name in METRIC.findall(query)}
    ours = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in asked if name.startswith("taskman_")}
    assert ours <= made
    assert {name for name in asked if not name.startswith("taskman_")} <= KNOWN_METRICS


# --- the queries, asked of a real Prometheus -------------------------------------------------------------------------


class Prometheus(Server):
    """Prometheus with the project's rules, and one target in place of all."""

    name = "prometheus"

    def __init__(self, folder: Path, target: int) -> None:
        self._program = programs.at(programs.PROMETHEUS)
        super().__init__(folder)
        self._target = target

    def prepare(self) -> None:
        self.write("alerts.yaml", (COMPOSE / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
        scraped = {"targets": [f"127.0.0.1:{self._target}"], "labels": {"process": "tasks", "server": "postgres"}}
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": ["alerts.yaml"],
            "scrape_configs": [{"job_name": "taskman", "static_configs": [scraped]}],
        }
        self.write("prometheus.yml", yaml.safe_dump(config))

    def command(self) -> list[str]:
        return [
            self._program, f"--config.file={self.home}/prometheus.yml", f"--storage.tsdb.path={self.home}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]  # fmt: skip

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        """What its API answers; an error of it is the answer as well."""
        address = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def query(self, expr: str) -> list[Any]:
        """The series that answer a query."""
        answer = self.get("query", query=expr)
        assert answer["status"] == "success", f"{expr}\n{answer.get('error')}"
        result: list[Any] = answer["data"]["result"]
        return result


class _Sample(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = sample(time.time()).encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Sample) as target:
        thread = threading.Thread(target=target.serve_forever)
        thread.start()
        server = Prometheus(tmp_path_factory.mktemp("prometheus"), target.server_address[1])
        try:
            with running(server):
                deadline = time.monotonic() + 30
                # A rate needs two looks, and a recording rule one after that.
                while not server.query("taskman:requests:slow_ratio_1h") or not server.query(
                    "rate(taskman_rpc_calls_total[1m])"
                ):
                    assert time.monotonic() < deadline, server.tail()
                    time.sleep(0.05)
                yield server
        finally:
            target.shutdown()
            thread.join()


def test_every_query_is_answered_by_prometheus(prometheus: Prometheus) -> None:
    """OPS-5: each query of each dashboard finds series in metrics like ours; none has an error."""
    asked = [(path.stem, expr) for path in DASHBOARDS for expr in queries(path)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: prometheus.query(each[1]), asked))
    empty = [where for where, series in zip(asked, found, strict=True) if not series]
    assert empty == []
    assert len(asked) > 40


def test_a_query_that_finds_nothing_or_cannot_be_read_is_noticed(prometheus: Prometheus) -> None:
    """The check above can fail."""
    assert prometheus.query("taskman_no_such_metric") == []
    with pytest.raises(AssertionError, match="parse error"):
        prometheus.query("sum(taskman_rpc_calls_total")


def test_every_rule_is_evaluated_by_prometheus(prometheus: Prometheus) -> None:
    """OPS-5: all rules are healthy, and what they compare exists."""
    deadline = time.monotonic() + 30
    while True:
        rules = [rule for group in prometheus.get("rules")["data"]["groups"] for rule in group["rules"]]
        if all(rule["health"] != "unknown" for rule in rules):
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(rules) == sum(len(group["rules"]) for group in RULES["groups"])
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    for rule in ALERTS:
        selectors = re.findall(r"(?:taskman[a-z_0-9:]+|(?:node|pg)_[a-z_]+)(?:\{[^}]*\})?", rule["expr"])
        assert selectors or "up{" in rule["expr"]
        assert [each for each in selectors if not prometheus.query(each)] == []


def test_the_variables_of_dashboards_have_values(prometheus: Prometheus) -> None:
    """What can be chosen above a dashboard is asked of Prometheus as well."""
    for path in DASHBOARDS:
        for variable in json.loads(path.read_text(encoding="utf-8"))["templating"]["list"]:
            match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert match, variable
            answer = prometheus.get(f"label/{match[2]}/values", **{"match[]": match[1]})
            assert answer["data"], variable["query"]


# --- Kong ------------------------------------------------------------------------------------------------------------

KONG_SERVICE = {
    "name",
    "url",
    "connect_timeout",
    "read_timeout",
    "write_timeout",
    "retries",
    "routes",
    "plugins",
    "tags",
}
KONG_ROUTE = {"name", "paths", "methods", "hosts", "strip_path", "preserve_host", "protocols", "plugins", "tags"}
KONG_PLUGINS = {
    "correlation-id": {"header_name", "generator", "echo_downstream"},
    "request-size-limiting": {"allowed_payload_size", "size_unit", "require_content_length"},
    "rate-limiting": {"second", "minute", "policy", "limit_by", "fault_tolerant", "hide_client_headers"},
    "prometheus": {"status_code_metrics", "latency_metrics", "bandwidth_metrics", "per_consumer"},
    "response-transformer": {"remove", "rename", "replace", "add", "append"},
}


def test_kongs_configuration_has_the_documented_form() -> None:
    """GATE-10, OPEN-POINTS 17: entities and plugins have the fields that Kong documents, the limits are ours."""
    config = yaml.safe_load((COMPOSE / "kong" / "kong.yml").read_text(encoding="utf-8"))
    assert config["_format_version"] == "3.0"
    assert set(config) <= {"_format_version", "_transform", "services", "plugins"}
    (service,) = config["services"]
    assert set(service) <= KONG_SERVICE
    assert service["url"] == "http://gateway:8080"
    assert service["read_timeout"] >= Settings().request_timeout_seconds * 1000
    for route in service["routes"]:
        assert set(route) <= KONG_ROUTE
        assert route["strip_path"] is False
        assert all(path.startswith("/") for path in route["paths"])
    for plugin in config["plugins"]:
        assert set(plugin) <= {"name", "config", "enabled", "protocols", "tags"}
        assert set(plugin["config"]) <= KONG_PLUGINS[plugin["name"]]
    sizes = {plugin["name"]: plugin["config"] for plugin in config["plugins"]}["request-size-limiting"]
    assert sizes["allowed_payload_size"] << 20 == Settings().max_body_bytes
    assert sizes["size_unit"] == "megabytes"


def test_metrics_and_health_are_not_open_through_kong() -> None:
    """What only operators ask for is no route of the edge."""
    config = yaml.safe_load((COMPOSE / "kong" / "kong.yml").read_text(encoding="utf-8"))
    paths = {path for service in config["services"] for route in service["routes"] for path in route["paths"]}
    assert not [path for path in paths if path in "/metrics" or path.startswith(("/metrics", "/readyz", "/healthz"))]
