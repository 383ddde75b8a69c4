"""Writes that either happen or do not: aside, flushed, renamed.

Every file a run needs later goes through here. `OSError`s that are the machine's fault (full disk, read-only
folder) become `EnvironmentFault`s with the path in the message.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inlearn.core.errors import EnvironmentFault

MACHINE_FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this system allows",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk reports an input/output error",
}


@contextlib.contextmanager
def machine_faults(path: Path | str) -> Iterator[None]:
    """Turn the machine's own failures into one sentence with the path; let everything else through."""
    try:
        yield
    except OSError as error:
        if error.errno not in MACHINE_FAULTS:
            raise
        raise EnvironmentFault(f"cannot write {path}: {MACHINE_FAULTS[error.errno]}") from error


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes, sync: bool = True) -> None:
    """Write `content` to `path` atomically: a reader sees the old file or the new one, never a part."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.aside")
    with machine_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            aside.replace(path)
            if sync:
                sync_folder(path.parent)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Readable, stable JSON; NaN and infinities are refused because other readers cannot parse them."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise EnvironmentFault(f"{path} is damaged: {error}") from error


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder aside and rename it into place; an error or a kill leaves nothing under the final name."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.aside")
    with machine_faults(path):
        aside.mkdir(parents=True)
        try:
            yield aside
            for file in (path for path in aside.rglob("*") if path.is_file()):
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            sync_folder(aside)
            aside.rename(path)
            sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


def remove_asides(folder: Path) -> None:
    """Delete what a killed process left half-written. Call only while holding the folder's lease."""
    for left in folder.glob(".*.aside"):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
