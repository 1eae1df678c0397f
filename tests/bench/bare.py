"""The floor: a bare ASGI application on the same HTTP server, whose answers were recorded from the real one.

Run as `python bare.py`; TASKMAN_PORT, TASKMAN_ANSWERS (a file) and TASKMAN_WORKERS come in the environment. It knows
nothing but which answer a request's `X-Bench-Case` asks for.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn

from taskman_server.gateway.protocol import options

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
_CASE = b"x-bench-case"


def application(answers: dict[bytes, tuple[Message, Message]]) -> Application:
    """An application that sends the recorded answer of a case as it is."""

    async def answer(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        head, body = next((answers[value] for name, value in scope["headers"] if name == _CASE), answers[b"ready"])
        if scope["method"] != "GET":
            while (await receive()).get("more_body"):
                pass
        await send(head)
        await send(body)

    return answer


def _messages(recorded: dict[str, Any]) -> tuple[Message, Message]:
    headers = [(name.encode(), value.encode()) for name, value in recorded["headers"]]
    return (
        {"type": "http.response.start", "status": recorded["status"], "headers": headers},
        {"type": "http.response.body", "body": base64.b64decode(recorded["body"])},
    )


def make_app() -> Application:
    """The application with the answers in the file that TASKMAN_ANSWERS names."""
    recorded = json.loads(Path(os.environ["TASKMAN_ANSWERS"]).read_text())
    answers = {case.encode(): _messages(answer) for case, answer in recorded.items()}
    answers[b"ready"] = _messages({"status": 200, "headers": [["content-length", "0"]], "body": ""})
    return application(answers)


def main() -> None:
    """Serves until SIGTERM, with the options that `taskman-server up` gives uvicorn."""
    uvicorn.run(
        f"{Path(__file__).stem}:make_app",
        factory=True,
        host="127.0.0.1",
        port=int(os.environ["TASKMAN_PORT"]),
        workers=int(os.environ["TASKMAN_WORKERS"]),
        **options(),
    )


if __name__ == "__main__":
    main()
