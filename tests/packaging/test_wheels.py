"""The two wheels: what is in them, and that they belong together (OPS-1)."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.packaging.test_tree import tracked

SOURCES = {"taskman_sdk": ".", "taskman_server": "src/taskman_server"}
# Beside the package's metadata, everything that git keeps in its folder must be in the wheel.
NOT_PACKAGED = {"src/taskman_server/pyproject.toml"}


@dataclass(frozen=True)
class Built:
    """One package, built the way that a release is: source archive first, wheel from that."""

    package: str
    wheel: set[str]
    sdist: set[str]
    metadata: Message
    commands: str


@pytest.fixture(scope="module", params=sorted(SOURCES))
def built(request: pytest.FixtureRequest, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    package = str(request.param)
    dist = tmp_path_factory.mktemp(package)
    command = ["-m", "build", "--no-isolation", "--outdir", str(dist), str(repo / SOURCES[package])]
    subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        commands = archive.read(f"{info}/entry_points.txt").decode()
    with tarfile.open(sdist) as tar:
        sources = {name.split("/", 1)[1] for name in tar.getnames()}
    return Built(package, names, sources, metadata, commands)


def kept(repo: Path, package: str) -> set[str]:
    """The files of the package, as they must be named in its wheel."""
    names = {path.relative_to(repo).as_posix() for path in tracked(repo, f"src/{package}")}
    return {name.removeprefix("src/") for name in names - NOT_PACKAGED}


def test_a_wheel_holds_every_file_of_its_package(built: Built, repo: Path) -> None:
    """Contract, descriptor image, migrations, templates, word lists, console: all that is in the folder."""
    expected = kept(repo, built.package)
    assert f"{built.package}/py.typed" in expected
    assert expected - built.wheel == set()


def test_a_wheel_holds_nothing_else(built: Built, repo: Path) -> None:
    """No tests, no byte code, no second copy of the other package."""
    packaged = {name for name in built.wheel if ".dist-info/" not in name}
    assert packaged - kept(repo, built.package) == set()


def test_the_contract_travels_with_the_sdk(repo: Path) -> None:
    """Third parties generate their own clients from the wheel: sources and image are both in it."""
    suffixes = {Path(name).suffix for name in kept(repo, "taskman_sdk")}
    assert {".proto", ".binpb", ".py", ".typed"} <= suffixes


def test_what_the_server_reads_at_run_time_is_part_of_its_package(repo: Path) -> None:
    """Every service can migrate its database from an installed wheel."""
    names = kept(repo, "taskman_server")
    services = {
        name.split("/")[2] for name in names if name.startswith("taskman_server/services/") and name.count("/") > 2
    }
    assert services
    without = [s for s in services if not any(n.startswith(f"taskman_server/services/{s}/migrations/") for n in names)]
    assert without == []


def test_a_source_archive_is_enough_to_build_from(built: Built) -> None:
    """It has the package, the metadata, and nothing of the tests or the site."""
    assert "pyproject.toml" in built.sdist
    assert "PKG-INFO" in built.sdist
    assert {name for name in built.sdist if name.startswith(("tests", "docs", "dist", ".venv"))} == set()


def test_both_wheels_carry_one_version(repo: Path, built: Built) -> None:
    """The version is written once; the server's exact requirement of the SDK is the one repetition."""
    namespace: dict[str, str] = {}
    exec((repo / "src/taskman_sdk/_version.py").read_text(encoding="utf-8"), namespace)
    version = namespace["__version__"]
    assert built.metadata["Version"] == version
    server = tomllib.loads((repo / "src/taskman_server/pyproject.toml").read_text(encoding="utf-8"))
    (sdk,) = (r for r in map(Requirement, server["project"]["dependencies"]) if r.name == "taskman-sdk")
    assert str(sdk.specifier) == f"=={version}"


def test_each_wheel_brings_its_command(built: Built) -> None:
    command = built.package.replace("taskman_sdk", "taskman").replace("_", "-")
    assert f"{command} = {built.package}.cli:main" in built.commands


def test_the_young_library_is_pinned(repo: Path) -> None:
    """protobuf-py is at 0.7: only its patch releases may come unasked."""
    sdk = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))
    pins = {r.name: str(r.specifier) for r in map(Requirement, sdk["project"]["dependencies"])}
    assert pins["protobuf-py"] == "==0.7.*"
    assert pins["protovalidate"] == "==2.*"
