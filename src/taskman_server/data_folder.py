"""A server's data folder: one process at a time, for its owner alone, whole or not at all (OPS-1)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from taskman_sdk._version import __version__

__all__ = ["BROKER", "PAGING_KEY", "VERSION_FILE", "DataFolderError", "DataFolderInUse", "check_whole", "lock", "mark",
           "open_folder", "secret"]  # fmt: skip

VERSION_FILE: Final = "VERSION"
"""Names the release that last ran on the folder; from then on none of its files may be missing."""
BROKER: Final = "broker.db"
"""The embedded broker's file."""
PAGING_KEY: Final = "paging.key"
"""The key that page tokens are signed with."""


class DataFolderError(Exception):
    """The data folder cannot be used; the message says why, and what to do."""


class DataFolderInUse(DataFolderError):
    """Another process works on the data folder; two would overwrite each other."""


def open_folder(path: Path) -> Path:
    """The folder, made for its owner alone where it is not there yet.

    Raises:
        DataFolderError: it cannot be made or written.
    """
    folder = path.resolve()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "lock").touch(0o600)
    except OSError as error:
        raise DataFolderError(
            f"the data folder {folder} cannot be used ({error.strerror}): name another with --data"
        ) from None
    return folder


def check_whole(folder: Path, databases: Sequence[str]) -> None:
    """Refuses a folder that has lost a file: an empty one in its place would contradict the others.

    Args:
        folder: the data folder.
        databases: the files of the services.

    Raises:
        DataFolderError: naming what is missing.
    """
    if not (folder / VERSION_FILE).exists():
        return
    names = [*databases, BROKER, PAGING_KEY]
    if missing := [name for name in names if not (folder / name).exists()]:
        raise DataFolderError(
            f"{', '.join(missing)} is missing in {folder}, where TaskMan has run before: restore the whole folder from "
            "a backup, or name another with --data"
        )


def lock(folder: Path) -> IO[str]:
    """Takes the folder for this process, until the handle is closed or the process ends.

    Raises:
        DataFolderInUse: another process has it.
    """
    handle = (folder / "lock").open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise DataFolderInUse(
            f"another TaskMan server is using {folder}: stop it, or name another folder with --data"
        ) from None
    return handle


def secret(folder: Path, name: str) -> bytes:
    """A key of this deployment, made at the first start; of several processes that start at once, one makes it."""
    path = folder / name
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f"{name}.") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(file.name, path)
    return path.read_bytes()


def mark(folder: Path) -> None:
    """Notes that this release has run on the folder."""
    (folder / VERSION_FILE).write_text(f"{__version__}\n", encoding="ascii")
