"""TaskMan's reference server: eight services, one code, three shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskman_sdk._version import __version__

if TYPE_CHECKING:
    from taskman_server.app.embedded import embedded

__all__ = ["__version__", "embedded"]


def __getattr__(name: str) -> Any:
    # Wiring the services costs half a second, which `taskman-server --help` need not wait for.
    if name == "embedded":
        from taskman_server.app.embedded import embedded

        return embedded
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
