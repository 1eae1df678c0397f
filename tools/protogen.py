"""Makes everything that follows from the `.proto` files: message classes, descriptor image, SDK models and verbs.

`python -m tools.protogen` writes; `python -m tools.protogen --check` only compares, names what is stale, and exits
with 1 if anything is.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.api import http_pb2
from protobuf import DescFile
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet
from protovalidate._gen.buf.validate import validate_pb

from tools.sdkgen.text import HEAD

ROOT = Path(__file__).resolve().parent.parent
SDK = ROOT / "src" / "taskman_sdk"
PROTO = SDK / "proto"
IMAGE = "proto/descriptors.binpb"
SERVER = ROOT / "src" / "taskman_server"
PEER = Path("kit/rpc/peer.proto")
# Google's own definitions that the contract uses: compiled to classes of the same runtime as our messages.
GOOGLE = (
    "google/api/annotations.proto",
    "google/api/field_behavior.proto",
    "google/api/http.proto",
    "google/rpc/code.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
)


def _with_dependencies(file: DescFile) -> Iterator[DescFile]:
    for dependency in file.dependencies:
        yield from _with_dependencies(dependency)
    yield file


def _validate_descriptor_set() -> bytes:
    """The descriptor of `buf/validate/validate.proto`, which is in no package as text."""
    unique = {file.name: file.proto for file in _with_dependencies(validate_pb.desc())}
    return FileDescriptorSet(file=list(unique.values())).to_binary()


def _protoc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True)


def messages(out: Path) -> None:
    """Writes message classes and the descriptor image, comments included, below `out/proto`."""
    ours = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("taskman/**/*.proto"))
    google = Path(http_pb2.__file__).parent.parent.parent
    target = out / "proto"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        validate = Path(temporary) / "validate.binpb"
        validate.write_bytes(_validate_descriptor_set())
        common = [f"--proto_path={PROTO}", f"--proto_path={google}", f"--descriptor_set_in={validate}"]
        _protoc(
            *common,
            "--include_imports",
            "--include_source_info",
            f"--descriptor_set_out={out / IMAGE}",
            *ours,
        )
        _protoc(
            *common,
            "--py_opt=map_imports=buf/validate/**:protovalidate._gen",
            f"--py_out={target}",
            *ours,
            *GOOGLE,
        )


def peers(out: Path) -> None:
    """Writes the messages that processes of the server exchange among themselves, which no client ever sees."""
    (out / PEER.parent).mkdir(parents=True)
    _protoc(f"--proto_path={SERVER / PEER.parent}", f"--py_out={out / PEER.parent}", f"{PEER.stem}.proto")


def sdk(out: Path) -> None:
    """Writes the SDK's models and verbs from the image below `out`, in ruff's format."""
    # Only now: these modules read options with classes that `messages` may just have made anew.
    image = importlib.import_module("tools.sdkgen.image")
    read = image.read((out / IMAGE).read_bytes())
    files: list[str] = []
    for name in ("models", "resources"):
        for path, text in importlib.import_module(f"tools.sdkgen.{name}").generate(read).items():
            target = out / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            files.append(str(target))
    config = ["--quiet", f"--config={ROOT / 'pyproject.toml'}", "--no-cache"]
    subprocess.run([sys.executable, "-m", "ruff", "format", *config, *files], check=True)


def _generated(folder: Path) -> dict[str, bytes]:
    """The generated files below a folder by relative path."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("**/*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or "__pycache__" in name or path.suffix == ".proto":
            continue
        data = path.read_bytes()
        if name.startswith("proto/") or data.startswith(HEAD.encode()):
            found[name] = data
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command; answers the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.protogen", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; name what is stale")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        messages(out)
        if not options.check:
            _write(_generated(out), _generated(SDK), prefix="proto/")
        sdk(out)
        fresh, kept = _generated(out), _generated(SDK)
        peers(out / "server")
        peer = PEER.with_name("peer_pb.py")
        made, there = (out / "server" / peer).read_bytes(), SERVER / peer
        if not options.check:
            _write(fresh, kept)
            there.write_bytes(made)
            return 0
        if not there.exists() or there.read_bytes() != made:
            print(f"stale: src/taskman_server/{peer} (changed)\nRun `python -m tools.protogen`.", file=sys.stderr)
            return 1
    stale = sorted(name for name in fresh.keys() | kept.keys() if fresh.get(name) != kept.get(name))
    for name in stale:
        state = "changed" if name in fresh and name in kept else "missing" if name in fresh else "no longer made"
        print(f"stale: src/taskman_sdk/{name} ({state})", file=sys.stderr)
    if stale:
        print("Run `python -m tools.protogen` and commit what it writes.", file=sys.stderr)
    return 1 if stale else 0


def _write(fresh: dict[str, bytes], kept: dict[str, bytes], prefix: str = "") -> None:
    """Brings the files below the SDK whose name begins with `prefix` to what was made."""
    for name in fresh.keys() | kept.keys():
        if not name.startswith(prefix) or fresh.get(name) == kept.get(name):
            continue
        path = SDK / name
        if name in fresh:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(fresh[name])
        else:
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
