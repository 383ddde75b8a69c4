"""What a local run folder and its copy in object storage have in common, as last seen: `<run>/.synced.json`.

For every file: the remote object's tag, and size and time of the local file that equals it. With that, each side can
tell which of the two was changed since, and nothing is sent or fetched twice.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inlearn.core.errors import EnvironmentFault
from inlearn.core.files import read_json, write_bytes
from inlearn.runs.remote_store import Stored

INDEX = ".synced.json"
OF_CHECKPOINT = re.compile(r"checkpoints/(\d{9,})/([^/]+)")
GROWING = ("metrics.jsonl", "trajectory/rows.jsonl", "trajectory/weights.f32")
PRIVATE = re.compile(r"(.*/)?\..*|lease\.json|lease\.now|leave\.json")  # of this machine, or of this moment
Objects = Mapping[str, Stored]  # of one run, by path relative to its folder


@dataclass
class Index:
    """`files`: path to (tag, size, mtime in ns); `steps`: the remote checkpoints; `lease`: whose copy is here."""

    files: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    lease: str = ""

    @staticmethod
    def load(folder: Path) -> Index:
        """A damaged or missing index is an empty one: everything is compared anew."""
        with contextlib.suppress(FileNotFoundError, EnvironmentFault, KeyError, TypeError):
            kept = read_json(folder / INDEX)
            return Index({name: tuple(entry) for name, entry in kept["files"].items()}, kept["steps"], kept["lease"])
        return Index()

    def save(self, folder: Path) -> None:
        write_bytes(folder / INDEX, json.dumps(vars(self)).encode(), sync=False)

    def note(self, folder: Path, name: str, tag: str) -> None:
        """The local file and the object with `tag` are the same now."""
        stat = (folder / name).stat()
        self.files[name] = (tag, stat.st_size, stat.st_mtime_ns)

    def tag(self, name: str) -> str | None:
        return self.files[name][0] if name in self.files else None

    def touched(self, folder: Path, name: str) -> bool:
        """The local file is there and is not the one that was last seen equal."""
        try:
            stat = (folder / name).stat()
        except FileNotFoundError:
            return False
        return name not in self.files or self.files[name][1:] != (stat.st_size, stat.st_mtime_ns)


def local_steps(folder: Path) -> list[int]:
    """Steps with a whole checkpoint on this machine, ascending. Imports no torch, as `CheckpointStore` does."""
    found = folder.glob("checkpoints/*/manifest.json")
    return sorted(int(path.parent.name) for path in found if path.parent.name.isdigit())


def remote_steps(objects: Iterable[str]) -> list[int]:
    """Steps whose manifest is there, ascending: manifests are written last, and removed first."""
    matches = (OF_CHECKPOINT.fullmatch(name) for name in objects)
    return sorted(int(match[1]) for match in matches if match and match[2] == "manifest.json")


def checkpoint_name(step: int, part: str) -> str:
    return f"checkpoints/{step:09d}/{part}"
