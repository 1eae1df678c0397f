"""A real collector of traces: OTLP over HTTP, protobuf."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["OtlpReceiver"]


class OtlpReceiver:
    """Receives spans on loopback from its making until `close`."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        """What has arrived, in that order."""
        self._services: dict[bytes, str] = {}
        self._arrived = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver._receive(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        """What `otlp_endpoint` is to be."""
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def _receive(self, batch: ExportTraceServiceRequest) -> None:
        with self._arrived:
            for resource in batch.resource_spans:
                names = [a.value.string_value for a in resource.resource.attributes if a.key == "service.name"]
                for scope in resource.scope_spans:
                    self.spans.extend(scope.spans)
                    self._services.update({span.span_id: names[0] for span in scope.spans if names})
            self._arrived.notify_all()

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace that have arrived; `trace_id` in hexadecimal digits."""
        return [span for span in list(self.spans) if span.trace_id.hex() == trace_id]

    def service(self, span: Span) -> str:
        """The `service.name` of whoever sent the span; empty: it did not say."""
        return self._services.get(span.span_id, "")

    def wait_for(self, condition: Callable[[list[Span]], bool], seconds: float = 30) -> list[Span]:
        """All spans, as soon as the condition holds for them. Not to be called in the loop of what is traced.

        Raises:
            TimeoutError: it does not hold within so many seconds.
        """
        deadline = time.monotonic() + seconds
        with self._arrived:
            while not condition(self.spans):
                if not self._arrived.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"the spans did not arrive; there are {sorted({s.name for s in self.spans})}")
            return list(self.spans)

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> OtlpReceiver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
