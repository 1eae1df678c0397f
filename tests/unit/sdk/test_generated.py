"""What is made from the contract is fresh, and new RPCs appear by themselves (SDK-1)."""

from __future__ import annotations

from pathlib import Path

import pytest
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet

from tools import protogen
from tools.sdkgen import models, resources
from tools.sdkgen.image import GenerationError, read
from tools.sdkgen.names import singular
from tools.sdkgen.text import HEAD

IMAGE = Path("src/taskman_sdk/proto/descriptors.binpb")


def test_generated_files_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    """SDK-1: `python -m tools.protogen --check`."""
    assert protogen.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_file_is_named(
    repo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDK-1: changed, missing and no longer made ones."""
    sdk = tmp_path / "taskman_sdk"
    for name, data in protogen._generated(repo / "src/taskman_sdk").items():
        (sdk / name).parent.mkdir(parents=True, exist_ok=True)
        (sdk / name).write_bytes(data)
    (sdk / "models/task.py").write_bytes((sdk / "models/task.py").read_bytes() + b"#")
    (sdk / "resources/users.py").unlink()
    (sdk / "resources/gone.py").write_text(HEAD + "\n")
    monkeypatch.setattr(protogen, "SDK", sdk)
    assert protogen.main(["--check"]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert [line.removeprefix("stale: src/taskman_sdk/") for line in lines[:-1]] == [
        "models/task.py (changed)", "resources/gone.py (no longer made)", "resources/users.py (missing)",
    ]  # fmt: skip


def test_a_new_rpc_becomes_a_verb_without_being_named_anywhere(repo: Path) -> None:
    """SDK-1: `PinTask`, added to the image, is `client.tasks.pin` of both clients."""
    image = FileDescriptorSet.from_binary((repo / IMAGE).read_bytes())
    (file,) = [each for each in image.file if each.name == "taskman/task/v1/task.proto"]
    data = file.to_binary().replace(b"RestoreTask", b"ElevateTask")
    changed = FileDescriptorSet(file=[type(file).from_binary(data) if each is file else each for each in image.file])
    files = resources.generate(read(changed.to_binary()))
    assert "async def elevate(" in files["resources/tasks.py"]
    assert "def elevate(" in files["_sync/tasks.py"]
    assert "restore" not in files["resources/tasks.py"].replace("tasks:restore", "").replace("}:restore", "")


def test_two_rpcs_of_one_name_are_refused(repo: Path) -> None:
    """SDK-1"""
    image = read((repo / IMAGE).read_bytes())
    twice = type(image)(image.messages, image.enums, (*image.methods, image.methods[0]))
    with pytest.raises(GenerationError, match="both become"):
        resources.generate(twice)


def test_every_field_of_every_model_is_described(repo: Path) -> None:
    """SDK-1: the comments of the contract are the reference."""
    for message in models.reachable(read((repo / IMAGE).read_bytes())):
        assert message.comment, message.full_name
        assert [field.name for field in message.fields if not field.comment] == [], message.full_name


@pytest.mark.parametrize(("plural", "one"), [("tasks", "task"), ("policies", "policy"), ("deliveries", "delivery")])
def test_nouns(plural: str, one: str) -> None:
    assert singular(plural) == one
