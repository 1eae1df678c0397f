"""What chaos needs: a receiver of webhooks, and a cluster on parts of its own that may be stopped and killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.receivers import HookServer


@pytest.fixture(scope="session")
def hooks() -> Iterator[HookServer]:
    """A real receiver of webhooks."""
    receiver = HookServer()
    yield receiver
    receiver.close()
