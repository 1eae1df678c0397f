"""Makes everything that follows from the `.proto` files: message classes, descriptor image, SDK models and resources.

`python -m tools.protogen` writes, `python -m tools.protogen --check` only compares and names what is stale.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.api import http_pb2
from protobuf import DescFile
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "src" / "taskman_sdk" / "proto"
PACKAGE = "taskman_sdk.proto"
IMAGE = "descriptors.binpb"
# Google's own definitions that the contract uses: compiled to classes of the same runtime as our messages.
GOOGLE = (
    "google/api/annotations.proto",
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


def generate(out: Path) -> None:
    """Writes message classes and the descriptor image below `out`."""
    ours = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("taskman/**/*.proto"))
    google = Path(http_pb2.__file__).parent.parent.parent
    out.mkdir(parents=True, exist_ok=True)
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
            f"--py_out={out}",
            *ours,
            *GOOGLE,
        )


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
