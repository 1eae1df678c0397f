"""Real parts that a test needs and a machine may lack: PostgreSQL, a browser, `wrk` …"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def missing_part(name: str, how: str) -> NoReturn:
    """Skip the test for want of the part `name`, or fail it where `CI` is `true`.

    In continuous integration nothing may be left out unseen. `how` says in a few words what to do to have the
    part, for example "apt install postgresql".
    """
    text = f"needs {name}: {how}"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def require_command(command: str, how: str) -> str:
    """The path of `command`; where it is not installed, what `missing_part` does."""
    return shutil.which(command) or missing_part(command, how)
