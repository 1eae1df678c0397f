"""A real RabbitMQ: private, on loopback, gone afterwards."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tests.parts.install import program
from tests.parts.servers import Handle, Port, Server, ServerFailed, running

__all__ = ["RabbitMQ", "RabbitServer", "private_rabbitmq"]


class RabbitServer(Server):
    """The process: one Erlang node that no other node talks to.

    Its console is the Erlang shell on its standard input (RABBITMQ_ALLOW_INPUT): `rabbitmqctl` takes a second or two
    for a call, the management plug-in as much more for the start. It is told its distribution port, so that it needs
    no epmd, which would stay behind as a daemon.
    """

    name = "rabbitmq"
    start_seconds = 120

    def __init__(self, folder: Path | None = None, *, management: bool = False) -> None:
        self.program = str(program("rabbitmq"))
        super().__init__(folder)
        self._distribution = Port()
        self._management = Port() if management else None
        self._asked = 0

    @property
    def management_port(self) -> int:
        """The port of the management API."""
        assert self._management is not None, "made without management"
        return self._management.number

    def prepare(self) -> None:
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "default_user = taskman",
            f"default_pass = {self.password}",
            "log.file = false",
            "log.console = true",
            "log.console.level = info",
            "disk_free_limit.absolute = 50MB",
            "raft.wal_max_size_bytes = 33554432",  # of quorum queues; by default half a gigabyte
        ]
        if self._management is not None:
            lines += ["management.tcp.ip = 127.0.0.1", f"management.tcp.port = {self._management.number}"]
        self.write("rabbitmq.conf", "\n".join(lines) + "\n")
        self.write("enabled_plugins", "[rabbitmq_management].\n" if self._management is not None else "[].\n")
        self.write("rabbitmq-env.conf", "")  # instead of the machine's
        self.own_folder("answers")

    def own_folder(self, name: str) -> Path:
        """A folder inside of its own."""
        path = self.home / name
        path.mkdir()
        return self.own(path)

    def command(self) -> list[str]:
        return [self.program]

    def environment(self) -> dict[str, str]:
        node = f"taskman-{self.port}@localhost"
        return {
            "RABBITMQ_NODENAME": node,
            "RABBITMQ_MNESIA_BASE": str(self.home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.home / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(self.home / "rabbitmq-env.conf"),
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"+S 2:2 +A 4 -sname {node} -start_epmd false -erl_epmd_port {self._distribution.number}"
                " -kernel inet_dist_use_interface {127,0,0,1}"
            ),
        }

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"  # a method frame: Connection.Start
        except OSError:
            return False

    def ask(self, text: str, seconds: float = 30) -> str:
        """The value of an Erlang expression, as Erlang writes it.

        Raises:
            ServerFailed: no answer in time.
        """
        with self._lock:
            self._asked += 1
            answer = self.home / "answers" / str(self._asked)
            # Renamed when complete: the console's own output is mixed with the log.
            self.tell(
                f'begin file:write_file("{answer}.part", io_lib:format("~p", [(catch begin {text} end)])),'
                f' file:rename("{answer}.part", "{answer}") end.\n'
            )
            deadline = time.monotonic() + seconds
            while not answer.exists():
                if time.monotonic() > deadline:
                    raise ServerFailed(f"rabbitmq did not answer {text!r}:\n{self.tail()}")
                time.sleep(0.002)
            return answer.read_text(encoding="utf-8")

    def close(self) -> None:
        super().close()
        self._distribution.close()
        if self._management is not None:
            self._management.close()


class RabbitMQ(Handle):
    """A RabbitMQ that tests may use; its user `taskman` may do everything."""

    management_url = ""
    """The address of its management API, where it has one."""

    def url(self, vhost: str = "/") -> str:
        """The address of a virtual host: `amqp://user:password@host:port/vhost`."""
        return f"amqp://taskman:{self._control.password}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def vhost(self, name: str = "test") -> str:
        """Makes an empty virtual host whose name begins with `name`; its URL. Nobody else is given the same one."""
        own = f"{name}-{secrets.token_hex(5)}"
        self._erlang(
            f'ok = rabbit_vhost:add(<<"{own}">>, <<"tests">>),'
            f' rabbit_auth_backend_internal:set_permissions(<<"taskman">>, <<"{own}">>, <<".*">>, <<".*">>, <<".*">>,'
            ' <<"tests">>)'
        )
        return self.url(own)

    def drop(self, url: str) -> None:
        """Removes a virtual host with all its queues; its connections are closed."""
        self._erlang(f'rabbit_vhost:delete(<<"{url.rpartition("/")[2]}">>, <<"tests">>)')

    def settle(self) -> None:
        """Writes the state of its quorum queues to the disk: call it between declaring one and `kill`.

        RabbitMQ 3.10 writes the term of a new queue's leader only seconds later. Killed before that, the queue waits
        for a leader for ever after the next start.
        """
        assert "error" not in self._control.ask("[dets:sync(T) || T <- dets:all()]")

    def alarm(self, on: bool) -> None:
        """Sets or clears a memory alarm: while it is on, publishers are blocked."""
        alarm = "{resource_limit, memory, node()}"
        call = f"rabbit_alarm:set_alarm({{{alarm}, []}})" if on else f"rabbit_alarm:clear_alarm({alarm})"
        self._erlang(call)

    def _erlang(self, expression: str) -> str:
        answer = self._control.ask(expression)
        if answer != "ok":
            raise ServerFailed(f"rabbitmq answered {answer} to {expression}")
        return answer


@contextmanager
def private_rabbitmq(folder: Path, *, management: bool = False) -> Iterator[RabbitMQ]:
    """A RabbitMQ for one test, which may do to it what it likes. Durable queues are always written to its disk.

    Args:
        folder: its log is written there.
        management: with the management API, at `management_url`; it takes longer to start.
    """
    server = RabbitServer(folder, management=management)
    with running(server):
        broker = RabbitMQ(server)
        if management:
            broker.management_url = f"http://taskman:{server.password}@127.0.0.1:{server.management_port}"
        yield broker
