"""A service that no release has: its contract is compiled when it is asked for, from the text below.

It shows that an RPC is one entry in a `.proto` file and one handler, and lets tests look at what channels do with
delays, errors and streams, which no real RPC does on demand.
"""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google.api.http_pb2
from prometheus_client import CollectorRegistry
from protobuf import DescFile
from sqlalchemy.schema import CreateTable

import taskman_sdk.proto.taskman as home
from taskman_sdk import contract
from taskman_sdk.errors import FailedPreconditionError, FieldViolation
from taskman_sdk.proto.taskman.user.v1.user_pb import BatchGetUsersRequest, BatchGetUsersResponse
from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.clock import SystemClock
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.event_tables import IDEMPOTENCY, INBOX, OUTBOX
from taskman_server.kit.guard import Guard
from taskman_server.kit.identity import Authenticator
from taskman_server.kit.outbox import Outbox, Relay
from taskman_server.kit.paging import Pager
from taskman_server.kit.rpc import Call, Channels, Pipeline, Runtime
from taskman_server.kit.telemetry import Telemetry
from taskman_server.settings import NO_FILE, load
from tools.protogen import PROTO, _validate_descriptor_set

__all__ = ["ERROR", "PROBE", "Probe", "ProbeHandlers", "compile_proto", "probe_service", "running_probe"]

PROBE = """
syntax = "proto3";
package taskman.probe.v1;
import "buf/validate/validate.proto";
import "google/api/annotations.proto";
import "taskman/options/v1/options.proto";

service ProbeService {
  // Answers what it is told, so many times.
  rpc Echo(EchoRequest) returns (EchoResponse) {
    option (google.api.http) = {post: "/v1/probes/{name}:echo" body: "*"};
    option (taskman.options.v1.rule) = {access: ACCESS_PUBLIC callers: ["tasks", "gateway"]};
  }
  rpc Wait(WaitRequest) returns (WaitResponse) {
    option (google.api.http) = {get: "/v1/probes/{name}:wait"};
    option (taskman.options.v1.rule) = {access: ACCESS_PUBLIC read_only: true callers: ["tasks", "gateway"]};
  }
  rpc Fail(FailRequest) returns (FailResponse) {
    option (google.api.http) = {get: "/v1/probes/{name}:fail"};
    option (taskman.options.v1.rule) = {access: ACCESS_PUBLIC read_only: true callers: ["tasks", "gateway"]};
  }
  rpc Count(CountRequest) returns (stream CountResponse) {
    option (google.api.http) = {get: "/v1/probes/{name}:count"};
    option (taskman.options.v1.rule) = {access: ACCESS_PUBLIC read_only: true callers: ["tasks", "gateway"]};
  }
  // Reads something.
  rpc Look(LookRequest) returns (LookResponse) {
    option (google.api.http) = {get: "/v1/probes/{name}:look"};
    option (taskman.options.v1.rule) = {access: ACCESS_PUBLIC read_only: true callers: ["tasks", "gateway"]};
  }
  // Changes something, and takes until it is let go.
  rpc Hold(HoldRequest) returns (HoldResponse) {
    option (google.api.http) = {post: "/v1/probes/{name}:hold" body: "*"};
    option (taskman.options.v1.rule) = {access: ACCESS_PUBLIC callers: ["tasks", "gateway"]};
  }
  rpc Poke(PokeRequest) returns (PokeResponse) {
    option (google.api.http) = {post: "/v1/probes/{name}:poke" body: "*"};
    option (taskman.options.v1.rule) = {permission: "tasks.import"};
  }
}

message EchoRequest {
  string name = 1;
  string text = 2 [(buf.validate.field).string.max_len = 20];
  int32 times = 3 [(buf.validate.field).int32.gte = 0];
}
message EchoResponse {
  string text = 1;
  string request_id = 2;
  repeated string metadata = 3;
}
message WaitRequest { string name = 1; }
message WaitResponse {}
message FailRequest {
  string name = 1;
  bool fault = 2;
}
message FailResponse {}
message CountRequest {
  string name = 1;
  int32 to = 2;
  bool fail = 3;
  bool wait = 4;
}
message CountResponse { int32 number = 1; }
message LookRequest { string name = 1; }
message LookResponse {}
message HoldRequest { string name = 1; }
message HoldResponse {}
message PokeRequest { string name = 1; }
message PokeResponse { string name = 1; }
"""

ERROR = FailedPreconditionError(
    "The probe does as it was told: ß, 日本.",
    reason="PROBE_FAILED",
    metadata={"state": "told", "größe": "1"},
    field_violations=[FieldViolation("name", "is ‘fail’", "probe")],
    retry_after=1.5,
)


class OwnError(FailedPreconditionError):
    """A kind of error that a service has for itself, and that no client knows."""

    def __init__(self) -> None:
        super().__init__(ERROR.message, reason=ERROR.reason, metadata=ERROR.metadata)


def compile_proto(text: str, area: str, folder: Path) -> DescFile:
    """Compiles the text of a `.proto` file as that of an area, as `tools.protogen` does, and imports what comes out."""
    name = f"taskman/{area}/v1/{area}.proto"
    source, out = folder / "source", folder / "out"
    (source / name).parent.mkdir(parents=True)
    out.mkdir()
    (source / name).write_text(text)
    validate = folder / "validate.binpb"
    validate.write_bytes(_validate_descriptor_set())
    google_protos = Path(google.api.http_pb2.__file__).parent.parent.parent
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={source}", f"--proto_path={PROTO}",
            f"--proto_path={google_protos}", f"--descriptor_set_in={validate}",
            "--py_opt=map_imports=buf/validate/**:protovalidate._gen", f"--py_out={out}", name,
        ],
        check=True,
    )  # fmt: skip
    home.__path__.append(str(out / "taskman"))
    importlib.invalidate_caches()
    found: DescFile = importlib.import_module(f"taskman_sdk.proto.taskman.{area}.v1.{area}_pb").desc()
    return found


def probe_service(folder: Path) -> contract.Service:
    """The contract of the probe."""
    (desc,) = compile_proto(PROBE, "probe", folder).services
    return contract.read_service("probe", desc)


@dataclass(slots=True)
class Seen:
    """What the handlers saw."""

    started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[Call] = field(default_factory=list)


class ProbeHandlers:
    """One function for each RPC."""

    def __init__(self, service: contract.Service) -> None:
        self._types = {name: method.output for name, method in service.methods.items()}
        self.seen = Seen()
        self.release = asyncio.Event()
        self.pass_on = False

    async def echo(self, request: Any, call: Call) -> Any:
        """Says it again."""
        self.seen.calls.append(call)
        call.trailers["x-probe"] = "trailer"
        if self.pass_on:
            await call.peer("UserService.BatchGetUsers", BatchGetUsersRequest(), BatchGetUsersResponse)
        metadata = [f"{key}={value}" for key, value in sorted(call.metadata.items())]
        text = request.text * (request.times or 1)
        return self._types["Echo"](text=text, request_id=call.request_id, metadata=metadata)

    async def wait(self, request: Any, call: Call) -> Any:
        """Never comes to an end by itself."""
        self.seen.calls.append(call)
        self.seen.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.seen.cancelled.set()

    async def fail(self, request: Any, call: Call) -> Any:
        """Raises."""
        if request.fault:
            raise ZeroDivisionError("the secret detail of a fault")
        if request.name == "own":
            raise OwnError()
        raise ERROR

    async def count(self, request: Any, call: Call) -> AsyncIterator[Any]:
        """Counts, and ends as it is told."""
        self.seen.calls.append(call)
        call.trailers["x-probe"] = "trailer"
        try:
            for number in range(1, request.to + 1):
                yield self._types["Count"](number=number)
            if request.fail:
                raise ERROR
            if request.wait:
                self.seen.started.set()
                await asyncio.Event().wait()
        finally:
            self.seen.cancelled.set()

    async def look(self, request: Any, call: Call) -> Any:
        """Answers at the next turn."""
        self.seen.calls.append(call)
        await asyncio.sleep(0)
        return self._types["Look"]()

    async def hold(self, request: Any, call: Call) -> Any:
        """Waits for the test."""
        self.seen.calls.append(call)
        self.seen.started.set()
        await self.release.wait()
        return self._types["Hold"]()

    async def poke(self, request: Any, call: Call) -> Any:
        """Decides, then answers."""
        await call.authorize({"editors": [], "id": request.name})
        return self._types["Poke"](name=request.name)


@dataclass(slots=True)
class Probe:
    """A running probe."""

    service: contract.Service
    handlers: ProbeHandlers
    runtime: Runtime
    pipeline: Pipeline


@asynccontextmanager
async def running_probe(service: contract.Service, folder: Path, **settings: Any) -> AsyncIterator[Probe]:
    """The probe on a database of its own, with no other service beside it."""
    database = SqliteDatabase(folder / "probe.db", durability="normal")
    async with database.transaction() as tx:
        for table in (OUTBOX, INBOX, IDEMPOTENCY):
            await tx.execute(CreateTable(table))
    broker = await EmbeddedBroker.open(folder / "broker.db")
    channels, clock = Channels({}), SystemClock()
    telemetry = Telemetry("probe", CollectorRegistry())
    tree = load({"data": folder, "rate_limit": "off", **settings}, environ={}, config=NO_FILE).with_port(8080)
    runtime = Runtime(
        name="probe",
        settings=tree,
        db=database,
        outbox=Outbox(Relay(database, broker).wake),
        channels=channels,
        authenticator=Authenticator(channels, "probe", clock),
        guard=Guard(channels, "probe", telemetry),
        pager=Pager(b"a key of sixteen bytes"),
        clock=clock,
        telemetry=telemetry,
        request_timeout=tree.request_timeout_seconds,
    )
    handlers = ProbeHandlers(service)
    try:
        yield Probe(service, handlers, runtime, Pipeline(service, handlers, runtime))
    finally:
        await broker.close()
        await database.close()
