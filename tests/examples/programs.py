"""Programs that check what the examples hold, and where they are."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from tests.parts import missing_part
from tests.parts.install import Part, install, locate

PROMETHEUS = Part("Prometheus", "prometheus", "prometheus")
PROMTOOL = Part("promtool", "promtool", "prometheus")
AMTOOL = Part("amtool", "amtool", "prometheus-alertmanager")


def at(part: Part) -> str:
    """The path of a part; installed where that is ours to do, else what `missing_part` does."""
    found = locate(part)
    if found is None and install(part):
        found = locate(part)
    return str(found or missing_part(part.title, part.how))


def package(name: str, how: str) -> ModuleType:
    """A package of the development lock; where it is not installed, what `missing_part` does."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return missing_part(how, f"pip install {how}")


def script(name: str, how: str) -> str:
    """A command that a package of the development lock brings."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    return found or missing_part(how, f"pip install {how}")


def run(*command: str | Path, cwd: Path | None = None) -> tuple[int, str]:
    """Runs a command; its exit code and what it said."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout


def check(*command: str | Path, cwd: Path | None = None) -> str:
    """Runs a checker; what it said. The test fails with that when it is not content."""
    code, said = run(*command, cwd=cwd)
    assert code == 0, f"{command[0]} ended with {code}:\n{said}"
    return said
