"""What chaos needs: a receiver of webhooks, and a cluster on parts of its own that may be stopped and killed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.chaos.cluster import Cluster, supervised
from tests.contract.receivers import HookServer


@pytest.fixture(scope="session")
def hooks() -> Iterator[HookServer]:
    """A real receiver of webhooks."""
    receiver = HookServer()
    yield receiver
    receiver.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, hooks: HookServer) -> Iterator[Cluster]:
    """Eight processes on private parts; each test leaves them well."""
    with supervised(tmp_path_factory.mktemp("cluster"), hooks) as running:
        yield running


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """What a test prints is shown although it passes: the tallies."""
    yield
    with capsys.disabled():
        print(capsys.readouterr().out, end="")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done: little for each change, more before a release.

    Attributes:
        long: the long form.
        rate: writes a second.
        writers: how many clients write.
        outage: seconds that a part is away.
        rounds: how often each thing is done.
    """

    long: bool
    rate: float
    writers: int
    outage: float
    rounds: int


@pytest.fixture
def size(chaos_long: bool) -> Size:
    """The short form, or with `--chaos-long` the long one."""
    return Size(True, 200, 30, 60, 5) if chaos_long else Size(False, 25, 8, 3, 1)
