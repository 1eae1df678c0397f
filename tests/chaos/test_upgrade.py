"""The embedded shape goes to this release and back to the one before the cluster was built, on the same data, under
load."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.chaos.conftest import Size
from tests.chaos.scene import SETTINGS, people
from tests.chaos.stores import FileStores
from tests.contract.receivers import HookServer
from tests.contract.waiting import eventually
from tests.serving import ServerProcess

BEFORE = "7aaa037"
"""The last commit before work on the cluster began."""


@pytest.fixture(scope="module")
def before(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that commit's code."""
    found = subprocess.run(["git", "-C", str(repo), "archive", BEFORE, "src"], capture_output=True, timeout=60)
    if found.returncode != 0:
        pytest.skip(f"needs the commit {BEFORE}, which is not in this clone: git fetch --unshallow")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder)  # of this very repository
    return folder / "src"


def _server(data: Path, like: ServerProcess | None, source: Path) -> ServerProcess:
    """`taskman-server up` with the code of a folder, at the same place as the one before."""
    code = (
        f"import sys; sys.path.insert(0, {str(source)!r}); import taskman_server as it;"
        f" assert it.__file__.startswith({str(source)!r}), it.__file__; from taskman_server.cli import main; main()"
    )
    settings = {**SETTINGS, **({"port": str(like.port)} if like is not None else {})}
    server = ServerProcess(data, settings=settings, command=(sys.executable, "-c", code, "up"))
    if like is not None:
        server.port, server.url = like.port, like.url
    return server


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("told")
async def test_to_this_release_and_back_under_load(
    before: Path, repo: Path, tmp_path: Path, hooks: HookServer, size: Size
) -> None:
    """OPS-7: no request is answered with an error, and nothing is lost or done twice, whichever release made it and
    whichever goes on with it. While the server is away clients wait for it."""
    server = _server(tmp_path / "data", None, before)
    stores = FileStores(server.data)
    releases = [before, repo / "src"] * (5 if size.long else 2)
    steps = []
    try:
        server.start()
        await asyncio.to_thread(server.wait_ready)
        scene = await people([server.url], hooks, writers=size.writers)
        async with scene.writing(strict=True, rate=size.rate) as crew:
            crew.up.set()
            for number, source in enumerate(releases):
                enough = len(crew.acknowledged) + 20 + size.rate

                async def wrote(enough: float = enough) -> bool:
                    crew.check()
                    return len(crew.acknowledged) >= enough

                await eventually(wrote, "writes", seconds=60)
                if number + 1 == len(releases):
                    break
                stopped = time.monotonic()
                assert await asyncio.to_thread(server.terminate, 30) == 0, server.tail()
                after = releases[number + 1]
                server = _server(server.data, server, after)
                server.start()
                await asyncio.to_thread(server.wait_ready)
                way = "back to the release before" if after == before else "to this release"
                steps.append(f"{way}: {time.monotonic() - stopped:.1f} s from SIGTERM to ready")
                assert source != after
            await crew.finish(30)
            await scene.settle(stores, 240)
            reckoning = await scene.reckon(crew)
        await scene.settle(stores, 30)
        assert await asyncio.to_thread(server.terminate, 30) == 0
        await reckoning.stores(stores, scene.project)
    finally:
        await asyncio.to_thread(server.stop)
    steps += [f"requests answered with an error: {len(crew.failed)}", f"unanswered attempts: {dict(crew.lost)}"]
    print("\nupgrade and back:", *steps, sep="\n  ")
    print(reckoning.report())
    assert crew.failed == []
    assert not reckoning.problems, "\n".join(reckoning.problems)
