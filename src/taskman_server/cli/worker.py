"""`taskman-server worker`: what `up --workers` starts; not for people."""

from __future__ import annotations

import click

from taskman_server.cli.options import stopping

__all__ = ["worker"]


@click.command(hidden=True)
@click.argument("line", type=int)
def worker(line: int) -> None:
    """Answer requests beside the process that has started this one, over the descriptor LINE."""
    import uvloop

    uvloop.run(_work(line))


async def _work(line: int) -> None:
    from taskman_server.app.link import LinkLost
    from taskman_server.app.serving import PortTaken
    from taskman_server.app.worker import run_worker
    from taskman_server.data_folder import DataFolderError
    from taskman_server.kit.db import DatabaseError

    try:
        await run_worker(line, stopping())
    except (DatabaseError, DataFolderError, PortTaken, OSError, LinkLost, TimeoutError) as error:
        raise click.ClickException(f"a worker: {error or type(error).__name__}") from None
