"""Logs: JSON lines for machines, coloured text on a terminal; no secret ever (OPS-5)."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal, TextIO

import structlog
from opentelemetry import trace

from taskman_sdk import contract
from taskman_server.kit.request_log import RequestLog

__all__ = ["configure", "request_log"]

REDACTED: Final = "[redacted]"
_HEADERS: Final = frozenset({"authorization", "cookie", "idempotency-key"})


_requests_to: TextIO | None = None


def request_log(service: str) -> RequestLog | None:
    """Where the lines of requests go; None where they are for people, or not wanted."""
    return RequestLog(_requests_to, service) if _requests_to is not None else None


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    secrets = contract.secret_fields()
    for key in event:
        if (name := key.lower()) in secrets or name in _HEADERS:
            event[key] = REDACTED
    return event


def _trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event.setdefault("trace_id", f"{context.trace_id:032x}")
    return event


def configure(level: Literal["debug", "info", "warning", "error"], form: Literal["auto", "json", "text"]) -> None:
    """Sets up logging for the process: our own lines and those of libraries alike, on standard error.

    Args:
        level: what is logged.
        form: `auto` is text on a terminal, else JSON.
    """
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _trace,
        _redact,
    ]
    number = getattr(logging, level.upper())
    global _requests_to  # of the process, as structlog's own settings are
    _requests_to = sys.stderr if not text and number <= logging.INFO else None
    ending: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    # Our own lines go straight out: by way of `logging`, the line of a request took a third of a GET's time.
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    ending = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=ending))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    # The gateway writes one line a request itself; httpx would print addresses with tokens of links; the first start
    # need not tell of each table that it makes.
    for name in ("uvicorn", "httpx", "httpcore", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
