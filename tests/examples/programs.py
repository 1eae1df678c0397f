"""Programs that check what the examples hold, and where they are."""

from __future__ import annotations

import subprocess
from pathlib import Path

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


def check(*command: str | Path, cwd: Path | None = None) -> str:
    """Runs a checker; what it said. The test fails with that when it is not content."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout
