"""The hash locks under requirements/."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = ("runtime.txt", "dev.txt")
ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?==(?P<version>[^ \\;]+)")


def locked(path: Path) -> dict[str, set[str]]:
    """Package name → the versions that the lock allows (more than one where they differ by platform)."""
    versions: dict[str, set[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := ENTRY.match(line):
            versions.setdefault(canonicalize_name(match["name"]), set()).add(match["version"])
    return versions


@pytest.fixture(params=LOCKS)
def lock(request: pytest.FixtureRequest, repo: Path) -> Path:
    return repo / "requirements" / str(request.param)


def test_every_lock_is_looked_at(repo: Path) -> None:
    assert sorted(path.name for path in (repo / "requirements").iterdir()) == sorted(LOCKS)


def test_a_lock_holds_no_address_and_no_path(lock: Path) -> None:
    """pip takes the packages from the index that the machine is set up for."""
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    bad = [
        line for line in text.splitlines() if re.search(r"(^\s*-[a-z]|^\s*--(?!hash=)|via -|\s@\s|file:|[ (]/)", line)
    ]
    assert bad == []


def test_every_locked_package_has_hashes(lock: Path) -> None:
    """`--require-hashes` would refuse one without."""
    text = lock.read_text(encoding="utf-8")
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert entries
    assert [entry.split("==")[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_locks_cover_what_the_wheels_declare(lock: Path, repo: Path) -> None:
    """A dependency that was declared but not locked would break the README's commands: run `nox -s lock`."""
    versions = locked(lock)
    stale = []
    for source in ("pyproject.toml", "src/taskman_server/pyproject.toml"):
        project = tomllib.loads((repo / source).read_text(encoding="utf-8"))["project"]
        for requirement in map(Requirement, project["dependencies"]):
            name = canonicalize_name(requirement.name)
            if name == "taskman-sdk":
                continue
            if not any(requirement.specifier.contains(version) for version in versions.get(name, ())):
                stale.append(f"{source}: {requirement}")
    assert stale == []


def test_the_development_lock_covers_its_groups(repo: Path) -> None:
    """What the checks need is locked as well."""
    groups = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    wanted = [Requirement(item) for items in groups.values() for item in items if isinstance(item, str)]
    versions = locked(repo / "requirements" / "dev.txt")
    assert [
        str(item)
        for item in wanted
        if not any(item.specifier.contains(v) for v in versions.get(canonicalize_name(item.name), ()))
    ] == []


def test_both_locks_hold_the_same_versions(repo: Path) -> None:
    """What is tested is what is run."""
    runtime, dev = (locked(repo / "requirements" / name) for name in LOCKS)
    assert {name: versions for name, versions in runtime.items() if dev.get(name) != versions} == {}
