"""What the gateway serves beside the API: health, metrics, the OpenAPI document with its page, and the link pages."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from taskman_sdk.errors import NotFoundError, TaskManError, UnimplementedError
from taskman_server.gateway.http import PROBLEM, problem
from taskman_server.gateway.openapi import document
from taskman_server.kit.ids import request_id_of
from taskman_server.kit.operations import Metrics, Readiness, routes

__all__ = ["pages"]

_SWAGGER: Final = Path(str(files("swagger_ui"))) / "static"
_CONSOLE: Final = Path(str(files("taskman_server.console")))
# The pages load nothing from elsewhere and show in nobody's frame.
_POLICY: Final = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; "
        "form-action 'self'; base-uri 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def pages(ready: Readiness, registry: CollectorRegistry, public_url: str, metrics: Metrics | None = None) -> ASGIApp:
    """The application for everything that is not an RPC.

    Args:
        ready: says whether each part works.
        registry: the metrics.
        public_url: where the API is, for the document.
        metrics: see `operations.routes`.
    """
    openapi = json.dumps(document(public_url), ensure_ascii=False).encode()

    async def openapi_json(_: Request) -> Response:
        return Response(openapi, media_type="application/json")

    def page(name: str) -> Callable[[Request], Awaitable[Response]]:
        html = (_CONSOLE / name).read_text(encoding="utf-8")

        async def show(_: Request) -> Response:
            return HTMLResponse(html, headers=_POLICY)

        return show

    async def script(request: Request) -> Response:
        return FileResponse(_CONSOLE / str(request.url.path).rpartition("/")[2], headers=_POLICY)

    async def home(_: Request) -> Response:
        return RedirectResponse("/docs")

    application = Starlette(
        routes=[
            Route("/", home),
            *routes(ready, registry, metrics),
            Route("/openapi.json", openapi_json),
            Route("/docs", page("docs.html")),
            Route("/set-up", page("set-up.html")),
            Route("/reset-password", page("reset-password.html")),
            Route("/console/link.js", script),
            Route("/console/docs.js", script),
            Route("/console/style.css", script),
            Mount("/docs/static", StaticFiles(directory=_SWAGGER)),
        ],
        exception_handlers={HTTPException: _problem},
    )
    # A redirect would lead wherever the Host header says.
    application.router.redirect_slashes = False
    return application


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known: TaskManError = NotFoundError(f"There is nothing at {request.url.path[:200]}.", reason="ROUTE_NOT_FOUND")
    if error.status_code == 405:
        known = UnimplementedError(
            f"{request.url.path} does not take {request.method}.",
            reason="METHOD_NOT_ALLOWED",
            metadata={"allow": ", ".join(sorted((error.headers or {}).get("Allow", "GET, HEAD").split(", ")))},
        )
    known.request_id = request_id_of(request.headers.get("x-request-id", ""))
    status, body, headers = problem(known, request.url.path)
    headers.append((b"x-request-id", known.request_id.encode()))
    return Response(
        body,
        status_code=status,
        media_type=PROBLEM.decode(),
        headers={name.decode(): value.decode() for name, value in headers},
    )
