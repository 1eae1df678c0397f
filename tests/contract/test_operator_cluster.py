"""What an operator of the cluster shape is told: one sentence, what to do, no traceback, no password (OPS-2)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from taskman_server.kit.tls import issue, make_authority
from taskman_server.settings import SERVICES
from tests.parts.postgresql import PostgreSQL
from tests.parts.rabbitmq import RabbitMQ
from tests.parts.redis import RedisServer

_MAIN = "from taskman_server.cli import main; main()"
_SECRET = "hunter2"
_ELSEWHERE = {
    "TASKMAN_DATABASE_URL": f"postgresql://taskman:{_SECRET}@127.0.0.1:1/x",
    "TASKMAN_BROKER_URL": f"amqp://taskman:{_SECRET}@127.0.0.1:1/x",
    "TASKMAN_REDIS_URL": f"redis://:{_SECRET}@127.0.0.1:1",
    "TASKMAN_OPS_PORT_BASE": "-1",
    "TASKMAN_GRPC_PORT_BASE": "-1",
    "TASKMAN_GRPC_PORT": "-1",
    "TASKMAN_PORT": "0",
}


def _run(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code, and all that was said."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKMAN_")}
    command = [sys.executable, "-c", _MAIN, *arguments]
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert _SECRET not in said
    return done.returncode, said


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"TASKMAN_DATABASE_POOL_SIZE": "many"}, "TASKMAN_DATABASE_POOL_SIZE"),
        ({"TASKMAN_DATABASE_URL": ""}, "TASKMAN_DATABASE_URL is not set"),
        ({"TASKMAN_BROKER_URL": f"amqp://taskman:{_SECRET}@mq:port"}, "TASKMAN_BROKER_URL"),
        ({"TASKMAN_REDIS_URL": f"redis://:{_SECRET}@cache:port"}, "TASKMAN_REDIS_URL"),
        ({"TASKMAN_PEER_ADDRESS": ","}, "TASKMAN_PEER_ADDRESS"),
        ({"TASKMAN_GRPC_PORT_BASE": "0"}, "TASKMAN_GRPC_PORT_BASE must be a port"),
        ({"TASKMAN_REDIS_URL": ""}, "tasks.crt cannot be read"),
        ({"TASKMAN_REDIS_URL": "", "TASKMAN_MTLS": "off", "TASKMAN_DATA": __file__}, "name another with --data"),
    ],
)
def test_a_process_that_cannot_work_ends_with_78(tmp_path: Path, changed: dict[str, str], named: str) -> None:
    """OPS-2: the sentence names the setting; 78 tells a supervisor that another try is of no use."""
    code, said = _run(
        "run", "tasks", **_ELSEWHERE | {"TASKMAN_DATA": str(tmp_path), "TASKMAN_GRPC_PORT_BASE": "50051"} | changed
    )
    assert (code, len(said.splitlines())) == (os.EX_CONFIG, 1), said
    assert named in said


def test_the_list_of_settings_shows_no_password_of_a_part(tmp_path: Path) -> None:
    """OPS-2: wherever in a URL it stands."""
    query = f"postgresql://db/tasks?user=taskman&password={_SECRET}"
    code, said = _run("settings", **_ELSEWHERE, TASKMAN_TASKS_DATABASE_URL=query)
    assert code == 0
    assert "password=***" in said
    assert "TASKMAN_BROKER_URL=amqp://***@127.0.0.1:1/x" in said


def test_the_doctor_finds_nothing_wrong_with_parts_that_are_there(
    tmp_path: Path, postgresql: PostgreSQL, rabbitmq: RabbitMQ, redis_server: RedisServer
) -> None:
    """OPS-2: before the first start, with certificates made by hand."""
    certs = tmp_path / "certs"
    make_authority(certs)
    for name in (*SERVICES, "gateway"):
        issue(certs, name)
    code, said = _run(
        "doctor",
        *("--data", str(tmp_path / "data"), "--certs", str(certs)),
        **_ELSEWHERE
        | {
            "TASKMAN_DATABASE_URL": postgresql.family(SERVICES),
            "TASKMAN_BROKER_URL": rabbitmq.vhost("doctor"),
            "TASKMAN_REDIS_URL": redis_server.url,
        },
    )
    assert (code, "WRONG" in said) == (0, False), said
    for service in SERVICES:
        assert f"ok    database {service}: PostgreSQL" in said
        assert f"ok    certificate {service}: {service}, good until" in said
    assert "7 services of one process each open 70 at most" in said
    assert "ok    broker: it answers, and has 0 of 7 queues" in said
    assert "ok    redis: it answers" in said


def test_the_doctor_names_all_that_is_wrong(tmp_path: Path, postgresql: PostgreSQL) -> None:
    """OPS-2: in one go, each with what to do."""
    certs = tmp_path / "certs"
    make_authority(certs)
    for name in ("users", "iam", "audit", "notifications", "gateway"):
        issue(certs, name)
    issue(certs, "tasks", days=3)
    (certs / "iam.key").chmod(0o644)
    (certs / "audit.crt").write_bytes((certs / "users.crt").read_bytes())
    (certs / "audit.key").write_bytes((certs / "users.key").read_bytes())
    url = postgresql.database("doctor")
    code, said = _run(
        "doctor",
        *("--data", str(tmp_path / "data"), "--certs", str(certs)),
        **_ELSEWHERE,
        TASKMAN_TASKS_DATABASE_URL=url,
        TASKMAN_USERS_DATABASE_URL=postgresql.url("nowhere"),
        TASKMAN_IAM_DATABASE_URL=url.replace("taskman:", "taskman:wrong"),
        TASKMAN_DATABASE_POOL_SIZE="500",
    )
    assert code == 1
    for complaint in (
        "database audit cannot be reached on 127.0.0.1:1",
        'CREATE DATABASE "nowhere"',
        "refuses the user or the password",
        "raise max_connections, or lower TASKMAN_DATABASE_POOL_SIZE",
        "broker: RabbitMQ at 127.0.0.1:1",
        "redis: ",
        "certificate authentication: ",
        "certificate tasks: good from",
        "certificate iam: everybody can read its key: chmod 600",
        "is that of users",
    ):
        assert any(complaint in line for line in said.splitlines() if line.startswith("WRONG")), f"{complaint}\n{said}"
    assert "ok    database tasks: PostgreSQL" in said


def test_the_doctor_without_a_broker_says_which_setting_is_missing(tmp_path: Path) -> None:
    """OPS-2: one URL of two is a mistake that is easily made."""
    code, said = _run(
        "doctor", "--data", str(tmp_path), **_ELSEWHERE | {"TASKMAN_BROKER_URL": "", "TASKMAN_MTLS": "off"}
    )
    assert code == 1
    assert "WRONG broker: TASKMAN_BROKER_URL is not set" in said
    assert "a mesh has to say who reaches" in said
