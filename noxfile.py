"""Every check of the project, each one command: `nox -s <session>`; plain `nox` runs all that must hold.

Sessions run in the environment that nox itself runs in (the README's commands make it from the hash locks):
one environment, installed once, by plain pip with whatever index the machine is set up for.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
SERVER = ROOT / "src" / "taskman_server"
SERVICES = SERVER / "services"
COVERAGE_FLOOR = 85  # per cent of lines, for each service folder
PYTHON = sys.executable
CONTRACT = "src/taskman_sdk/proto/descriptors.binpb"
RELEASED = "tools/contract-released.binpb"
LOCKED = {
    # What a checkout needs to run, and what it needs to be worked on.
    "requirements/runtime.txt": ("build",),
    "requirements/dev.txt": ("dev",),
}

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "proto", "docs", "tests", "packages"]
os.environ["NO_MKDOCS_2_WARNING"] = "1"  # mkdocs-material's advertisement of its successor
# Many tests start a server: without byte code each start would compile the whole tree again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Commands that the environment brings (ruff, mypy, buf …) are found although it is not activated.
os.environ["PATH"] = os.pathsep.join([str(Path(PYTHON).parent), os.environ.get("PATH", "")])


def module(session: nox.Session, *command: str) -> None:
    """Run `python -m …` with the interpreter that runs nox."""
    session.run(PYTHON, "-m", *command)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff (rules and format) and the import rules."""
    module(session, "ruff", "check", ".")
    module(session, "ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, over both packages and the tools."""
    module(session, "mypy", *session.posargs)


@nox.session
def proto(session: nox.Session) -> None:
    """The contract: what is generated is fresh, the style holds, nothing that clients use is broken.

    `-- --accept` makes the contract as it is now the one that must not be broken; do it at a release.
    """
    if "--accept" in session.posargs:
        shutil.copyfile(CONTRACT, RELEASED)
    module(session, "tools.protogen", "--check")
    session.run("buf", "lint", CONTRACT, "--config", "buf.yaml")
    session.run("buf", "breaking", CONTRACT, "--config", "buf.yaml", "--against", RELEASED)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site; a broken link or a page outside the navigation fails."""
    module(session, "mkdocs", "build", "--strict", "--quiet", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests but the benches; each service's folder is covered to the floor.

    Faults come last and have the machine for themselves: what they measure is the servers, not who else is at work.
    """
    for old in ROOT.glob(".coverage*"):
        old.unlink()
    parallel = ["-n", "2", "--dist", "worksteal"]
    if session.posargs:
        module(session, "pytest", *parallel, *session.posargs)
        return  # a part of the tests was asked for: its coverage says nothing
    cov = ["--cov", "--cov-report="]
    try:
        module(session, "pytest", *parallel, *cov, "--ignore=tests/chaos")
    finally:
        module(session, "pytest", *cov, "--cov-append", "tests/chaos")
    low = []
    for service in sorted(path.parent for path in SERVICES.glob("*/__init__.py")):
        session.log(f"coverage of {service.name}")
        files = f"--include={service.relative_to(ROOT).as_posix()}/*"
        try:
            module(session, "coverage", "report", files, f"--fail-under={COVERAGE_FLOOR}", "--show-missing")
        except nox.command.CommandFailed:
            low.append(service.name)
    if low:
        session.error(f"below {COVERAGE_FLOOR} % of lines covered: {', '.join(low)}")


@nox.session
def chaos(session: nox.Session) -> None:
    """Kill and starve the parts for longer than the default run does."""
    module(session, "pytest", "tests/chaos", "--chaos-long", "-o", "faulthandler_timeout=5400", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure throughput and latency of a running server (needs `wrk`)."""
    module(session, "tests.bench", *session.posargs)


@nox.session
def packages(session: nox.Session) -> None:
    """Build both wheels, install them into a fresh environment from the lock, run both commands."""
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    for source in (ROOT, SERVER):
        module(session, "build", "--no-isolation", "--outdir", str(dist), str(source))
    with tempfile.TemporaryDirectory() as folder:
        module(session, "venv", folder)
        bin_dir = Path(folder) / ("Scripts" if os.name == "nt" else "bin")
        pip = [str(bin_dir / "python"), "-m", "pip", "install", "-q"]
        session.run(*pip, "--require-hashes", "-r", "requirements/runtime.txt")
        session.run(*pip, "--no-deps", "--no-index", *map(str, sorted(dist.glob("*.whl"))))
        session.run(str(bin_dir / "python"), "-m", "pip", "check")
        with session.chdir(folder):  # away from the tree, so that only what was installed can answer
            session.run(str(bin_dir / "taskman"), "--version")
            session.run(str(bin_dir / "taskman-server"), "--version")


@nox.session
def lock(session: nox.Session) -> None:
    """Remake the hash locks; `nox -s lock -- --upgrade` takes newer versions, `-- -P name` one of them."""
    constraints: list[str] = []
    for target, groups in LOCKED.items():
        session.run(
            "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes",
            "--no-emit-index-url", "--no-header", "--no-emit-package", "taskman-sdk",
            *[f"--group={group}" for group in groups], *constraints, *session.posargs,
            "pyproject.toml", "src/taskman_server/pyproject.toml", "--output-file", target,
        )  # fmt: skip
        constraints = ["--constraints", target]
