"""The image is built and the project started, in a Docker engine of our own: `pytest tests/examples --docker` (OPS-3).

What cannot be had without a registry is left out (Grafana, Jaeger, Mailpit, Kong, OpenBao's image, Elasticsearch); the
databases, Redis, RabbitMQ and Prometheus are Debian's, with the entry points that compose.yaml counts on, under the
names that it gives. compose.yaml itself is used as it is, but for what Debian's docker-compose 1.29 is too old for.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from taskman_server.settings import SERVICES
from tests.examples.engine import Engine, engine, file_systems, wheels

REPO = Path(__file__).resolve().parents[2]
COMPOSE = REPO / "examples" / "compose"
IMAGES = Path(__file__).parent / "images"
PROCESSES = (*SERVICES, "gateway")
STORES = ("postgres", "timescaledb", "redis", "rabbitmq")
WATCHERS = ("prometheus", "alertmanager", "node-exporter", "postgres-exporter", "timescaledb-exporter")
IMAGE = "taskman-server:test"

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800), pytest.mark.xdist_group("docker")]


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The engine, with the image built and stand-ins for the others."""
    home = tmp_path_factory.mktemp("docker")
    base, parts = file_systems(home / "rootfs")
    served = wheels(REPO / "requirements" / "runtime.txt", home)
    with engine(home) as found:
        found.image("taskman-base:test", base)
        found.image("taskman-parts:test", parts)
        index = found.inside(sys.executable, "-m", "http.server", "8099", "--bind", "127.0.0.1", "-d", served)
        try:
            secret = home / "pip.conf"
            secret.write_text("[global]\nno-index = true\nfind-links = http://127.0.0.1:8099/\n", encoding="utf-8")
            found.docker(
                "build", "--network=host", "--build-arg=BASE_IMAGE=taskman-base:test", f"--secret=id=pip,src={secret}",
                f"--file={COMPOSE / 'Dockerfile'}", f"--tag={IMAGE}", REPO,
            )  # fmt: skip
        finally:
            index.terminate()
            index.wait()
        named = yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))["services"]
        for name in (*STORES, *WATCHERS):
            target = {"timescaledb": "postgres", "timescaledb-exporter": "postgres-exporter"}.get(name, name)
            number = named[name]["user"].partition(":")[0]
            found.docker(
                "build", "--network=none", "--build-arg=PARTS=taskman-parts:test", f"--build-arg=ID={number}",
                f"--target={target}", f"--tag={named[name]['image']}", IMAGES,
            )  # fmt: skip
        yield found


def until(what: Callable[[], Any], seconds: float, otherwise: Callable[[], str]) -> Any:
    """What a condition answers once it is not empty."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.2)
    return answer


def test_the_image_is_small_in_rights_and_has_no_build_tools(docker: Engine) -> None:
    """OPS-3: not root, no pip, nothing of the build, both packages at one version."""
    config = json.loads(docker.docker("image", "inspect", IMAGE))[0]["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["taskman-server"]
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["StopSignal"] == "SIGTERM"
    assert not [each for each in config["Env"] if "8099" in each]
    said = docker.docker("run", "--rm", "--network=none", "--read-only", IMAGE, "--version")
    assert said.startswith("taskman-server, version ")
    modules = (
        "import importlib.util as i; print([n for n in ('pip','setuptools','hatchling','build') if i.find_spec(n)])"
    )
    said = docker.docker("run", "--rm", "--network=none", "--entrypoint=python3", IMAGE, "-c", modules)
    assert said.strip() == "[]"
    assert "pip.conf" not in docker.docker("history", "--no-trunc", "--format={{.CreatedBy}}", IMAGE).replace(
        "target=/etc/pip.conf", ""
    )


def test_the_embedded_shape_runs_in_it(docker: Engine) -> None:
    """OPS-1, OPS-7: read-only, without rights; healthy, and gone in time when it is stopped."""
    docker.docker(
        "run", "--detach", "--name=up", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--network=host",
        "--security-opt=no-new-privileges", "--health-interval=1s", IMAGE,
    )  # fmt: skip
    status = "{{.State.Health.Status}}"
    until(
        lambda: docker.docker("inspect", "-f", status, "up").strip() == "healthy",
        60,
        lambda: docker.docker("logs", "up"),
    )
    code, body = docker.fetch("http://127.0.0.1:8080/readyz")
    assert (code, json.loads(body)["status"]) == (200, "ok")
    started = time.monotonic()
    docker.docker("stop", "--time=30", "up")
    assert time.monotonic() - started < 20
    assert docker.docker("inspect", "-f", "{{.State.ExitCode}}", "up").strip() == "0"
    docker.docker("rm", "--volumes", "up")


def older(project: dict[str, Any]) -> dict[str, Any]:
    """The project for docker-compose 1.29, and without what Debian's PostgreSQL has not."""
    project = json.loads(json.dumps({key: value for key, value in project.items() if not key.startswith("x-")}))
    del project["name"]
    for name, container in project["services"].items():
        container.pop("build", None)
        container["pids_limit"] = container["deploy"]["resources"]["limits"].pop("pids")
        if name == "timescaledb":
            container["command"] = ["postgres", "-c", "max_connections=50"]
            container["environment"]["EXTENSIONS"] = ""
        if name in PROCESSES:
            container["environment"]["TASKMAN_OTLP_ENDPOINT"] = ""  # nobody reads traces here
    return project


@pytest.fixture(scope="module")
def project(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project, as `init.sh` prepares it, with everything running that can be had."""
    folder = tmp_path_factory.mktemp("project") / "compose"
    shutil.copytree(COMPOSE, folder, ignore=shutil.ignore_patterns("secrets", ".env", "__pycache__"))
    example = (folder / ".env.example").read_text(encoding="utf-8")
    for ours, theirs in (
        ("TASKMAN_VERSION=test", "TASKMAN_VERSION=2.0.0"),
        ("TASKMAN_ADMIN_EMAIL=root@example.org", "TASKMAN_ADMIN_EMAIL="),
    ):
        assert theirs in example
        example = example.replace(theirs, ours)
    (folder / ".env").write_text(example, encoding="utf-8")
    # `docker` for init.sh: the engine of the tests, whose image is built already.
    shim = folder / "bin" / "docker"
    shim.parent.mkdir()
    shim.write_text(
        f'#!/bin/sh\n[ "$1" = compose ] && exit 0\nexec /usr/bin/docker --host {docker.host} "$@"\n', encoding="utf-8"
    )
    shim.chmod(0o755)
    done = subprocess.run(
        ["sh", "init.sh"], cwd=folder, env={"PATH": f"{shim.parent}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))
    (folder / "compose.yaml").write_text(yaml.safe_dump(older(content)), encoding="utf-8")
    docker.compose(folder, "up", "--detach", "--no-build", *STORES, *PROCESSES, *WATCHERS)
    yield folder
    docker.compose(folder, "down", "--volumes", "--timeout=30")


def state(docker: Engine, name: str) -> str:
    return docker.docker("inspect", "-f", "{{.State.Health.Status}}", f"taskman_{name}_1").strip()


def logs(docker: Engine, *names: str) -> str:
    return "\n".join(docker.docker("logs", "--tail=40", f"taskman_{name}_1") for name in names)


def test_all_eight_processes_are_ready(docker: Engine, project: Path) -> None:
    """OPS-3, OPS-2: on PostgreSQL, Redis and RabbitMQ, with their own rights at each, over mTLS."""
    for name in (*STORES, *PROCESSES):
        until(lambda name=name: state(docker, name) == "healthy", 180, lambda name=name: logs(docker, name))
    _, body = until(
        lambda: (answer := docker.fetch("http://127.0.0.1:8080/readyz"))[0] == 200 and answer,
        120,
        lambda: str(docker.fetch("http://127.0.0.1:8080/readyz")) + logs(docker, *PROCESSES),
    )
    assert json.loads(body)["status"] == "ok", body


_USE = """
import sys, time
from taskman_sdk import TaskMan
with TaskMan("http://127.0.0.1:8080") as client:
    client.auth.login(email="root@example.org", password=sys.stdin.read())
    client.projects.create(key="HOME", display_name="Home")
    print(client.tasks.create(project="HOME", title="Pay rent").key)
    end = time.monotonic() + 60
    while not {"task.created", "project.created"} <= {event.type for event in client.audit.list()}:
        assert time.monotonic() < end, "the audit did not hear of it"
"""


def test_a_task_is_made_and_the_audit_hears_of_it(docker: Engine, project: Path) -> None:
    """OPS-3: the administrator of `.env` signs in; an event goes from a database over RabbitMQ to another one."""
    password = json.loads((project / "secrets" / "passwords.json").read_text(encoding="utf-8"))["administrator"]
    done = subprocess.run(
        ["nsenter", f"--net=/proc/{docker.pid}/ns/net", sys.executable, "-c", _USE], input=password,
        capture_output=True, text=True, cwd=REPO,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + logs(docker, *PROCESSES)
    assert done.stdout.strip() == "HOME-1"


def asked(docker: Engine, query: str) -> list[Any]:
    status, body = docker.fetch(f"http://127.0.0.1:9090/api/v1/query?query={quote(query)}")
    assert status == 200, body
    found: list[Any] = json.loads(body)["data"]["result"]
    return found


def test_prometheus_reaches_all_that_it_watches(docker: Engine, project: Path) -> None:
    """OPS-5: eight processes, both databases, RabbitMQ and the machine answer, and give what dashboards ask for."""
    targets = until(
        lambda: len(found := asked(docker, "up == 1")) == 13 and found, 90, lambda: str(asked(docker, "up == 0"))
    )
    assert {each["metric"]["process"] for each in targets if "process" in each["metric"]} == set(PROCESSES)
    for metric in ("taskman_rpc_calls_total", "taskman_database_pool_max", "node_load1", "pg_settings_max_connections"):
        assert until(lambda metric=metric: asked(docker, metric), 60, lambda metric=metric: metric)
    # One level of alerts that nobody should see in a healthy project.
    assert asked(docker, 'ALERTS{alertname=~"ServiceDown|DatabaseConnections|ErrorRate",alertstate="firing"}') == []


def test_a_process_is_stopped_in_order_and_missed(docker: Engine, project: Path) -> None:
    """OPS-7: it ends by itself with 0; `/readyz` of the gateway names it, and does so no more when it is back."""

    def part() -> str:
        return str(json.loads(docker.fetch("http://127.0.0.1:8080/readyz")[1])["parts"]["tasks"])

    docker.compose(project, "stop", "--timeout=30", "tasks")
    assert docker.docker("inspect", "-f", "{{.State.ExitCode}}", "taskman_tasks_1").strip() == "0"
    until(lambda: part() != "ok", 60, part)
    docker.compose(project, "start", "tasks")
    until(lambda: part() == "ok", 120, lambda: part() + logs(docker, "tasks"))
