"""What may and may not stand in the repository."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

REGISTRY = re.compile(
    r"(pypi|pythonhosted|npmjs|deb\.debian)\.org|crates\.io|proxy\.golang|registry\.yarnpkg|rubygems\.org"
)
MACHINE_PATH = re.compile(r"/(work|root|farm|home/[a-z]\w*|Users/[a-z]\w*)/")
# Inside a container image or a manifest such a path is the container's own.
CONTAINER_FILES = ("examples/compose/*", "examples/kubernetes/*", "*Dockerfile*")
GENERATED = ("*_pb.py", "src/taskman_sdk/models/*", "src/taskman_sdk/resources/*", "*/_sync/*")
LINES = 500


def tracked(repo: Path, *patterns: str) -> list[Path]:
    """The files of the checkout that git keeps or would keep."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=repo, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return [repo / name for name in sorted(set(listed.split("\0"))) if name and (repo / name).is_file()]


def lines_of(path: Path) -> list[str]:
    """The lines of a text file; none of a binary one."""
    content = path.read_bytes()
    return [] if b"\0" in content else content.decode("utf-8", errors="replace").splitlines()


def test_the_checkout_is_seen(repo: Path) -> None:
    """The other tests here look at what git lists: were it empty, they would all pass."""
    names = {path.relative_to(repo).as_posix() for path in tracked(repo)}
    assert {"pyproject.toml", "src/taskman_server/pyproject.toml", "README.md"} <= names


# Put together here, so that this file does not hold what it looks for.
@pytest.mark.parametrize("host", [("pypi", "org"), ("files.pythonhosted", "org"), ("registry.npmjs", "org")])
def test_a_registry_address_is_recognised(host: tuple[str, str]) -> None:
    """The pattern finds what it is for."""
    assert REGISTRY.search(f"--index-url https://{'.'.join(host)}/simple")


@pytest.mark.parametrize("parts", [("work", "x"), ("root", ".cache"), ("home", "anna", "taskman")])
def test_a_machine_path_is_recognised(parts: tuple[str, ...]) -> None:
    """The pattern finds what it is for."""
    assert MACHINE_PATH.search(f'open("/{"/".join(parts)}")')


def test_nothing_names_a_registry_or_a_path_of_one_machine(repo: Path) -> None:
    """A checkout works wherever it lies and from whatever index pip is set up for (OPS-1)."""
    found = []
    for path in tracked(repo):
        name = path.relative_to(repo).as_posix()
        container = any(fnmatch(name, pattern) for pattern in CONTAINER_FILES)
        for number, line in enumerate(lines_of(path), 1):
            if REGISTRY.search(line) or (MACHINE_PATH.search(line) and not container):
                found.append(f"{name}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


def test_no_lock_with_addresses_is_kept(repo: Path) -> None:
    """uv.lock writes the address of the index into every entry; the hash locks do not."""
    assert not tracked(repo, "uv.lock", "**/uv.lock")


def test_no_hand_written_file_has_outgrown_its_room(repo: Path) -> None:
    """A source file past 500 lines is two rooms; what is generated may be as long as it must."""
    long = []
    for path in tracked(repo, "src/*.py"):
        name = path.relative_to(repo).as_posix()
        if not any(fnmatch(name, pattern) for pattern in GENERATED) and len(lines_of(path)) > LINES:
            long.append(f"{name}: {len(lines_of(path))} lines")
    assert not long, "\n".join(long)


def test_git_ignores_nothing_of_the_source_but_byte_code(repo: Path) -> None:
    """What git ignores under src/ would be missing from a fresh checkout, and from wheels made of it."""
    ignored = subprocess.run(
        ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "src"],
        cwd=repo, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert [name for name in ignored if not name.endswith(".pyc")] == []
