"""From a local run folder to object storage, in an order in which no reader and no kill ever finds half of anything.

    what the run is, growing files up to the checkpoint, the list of passing checkpoints
    → the checkpoint's parts → its manifest (now it counts)
    → passing checkpoints that are gone here: manifest first, then parts
    → the small files that changed → at the end of a process, everything else

A checkpoint that is whole remotely is never written again. What a killed upload left without a manifest is sent
again, or removed where the checkpoint is gone here too.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from inlearn.core.errors import EnvironmentFault
from inlearn.core.files import read_json
from inlearn.runs.folder import names
from inlearn.runs.remote_index import (
    GROWING,
    OF_CHECKPOINT,
    PRIVATE,
    Index,
    checkpoint_name,
    local_steps,
    remote_steps,
)
from inlearn.runs.remote_pull import LARGE, run_objects
from inlearn.runs.remote_store import Exists, RemoteStore, Stored

ROLLING = "checkpoints/rolling.json"
FIRST = ("config.json", "study.json", "source.py", "references.jsonl", "carried.json", "status.json")
WITHDRAWN = (ROLLING, "checkpoints/best.json")  # removed remotely when they are gone here


class Push:
    """Sends what the run folder `folder` has and its remote copy has not. For the holder of the remote lease.

    `guard` is asked before every request, and raises where there must be no write any more.
    """

    def __init__(self, store: RemoteStore, folder: Path, guard: Callable[[], None]) -> None:
        self.store, self.folder = store.guarded(guard), folder
        self.index = Index.load(folder)
        self.remote: dict[str, Stored] | None = None  # as listed once, then as written by us
        self._passing: set[int] = set()

    def push(self, everything: bool = False) -> None:
        """Bring the remote copy up to the newest checkpoint; with `everything`, up to the last byte of every file.

        Raises `StorageFault` where the store fails for longer than its patience; what was sent by then counts.
        """
        if self.remote is None:
            self.remote = run_objects(self.store, self.folder.name)
            if ROLLING in self.remote:
                self._passing = set(json.loads(self.store.get(self._key(ROLLING))[0]))
        try:
            self._send_checkpoints()
            self._remove_passing()
            for name in self._changed(everything):
                if name in GROWING and not everything:
                    continue  # goes with its checkpoint, up to its length there
                self._send(name)
            for name in WITHDRAWN:
                if name in self.remote and not (self.folder / name).exists():
                    self._delete([name])
            self._send_names()
        finally:
            self.index.steps = remote_steps(self.remote)
            self.index.save(self.folder)

    def left(self) -> list[str]:
        """Files of this folder that are not at the remote as they are; asks nobody."""
        there = set(self.index.steps if self.remote is None else remote_steps(list(self.remote)))
        parts = [checkpoint_name(s, p) for s in local_steps(self.folder) if s not in there for p in self._parts(s)]
        return [*parts, *self._changed(everything=True)]

    # ------------------------------------------------------------ checkpoints

    def _send_checkpoints(self) -> None:
        waiting = [s for s in local_steps(self.folder) if self._manifest(s) and not self._whole(s)]
        self._remove_halves(waiting)
        if not waiting:
            return
        lengths = self._manifest(waiting[-1]).get("lengths") or self._manifest(waiting[0]).get("lengths", {})
        for name in FIRST:
            if self._differs(name):
                self._send(name)
        self._send_growing(lengths)
        self._send_rolling()
        for step in waiting:
            self._delete(name for name in [checkpoint_name(step, "manifest.json")] if name in self.remote)
            for part in self._parts(step):  # the manifest is last
                self._send(checkpoint_name(step, part))
            if checkpoint_name(step, "manifest.json") not in self.remote:
                self._drop(step)  # removed here while it was sent

    def _whole(self, step: int) -> bool:
        """The remote has this checkpoint, every part in its size."""
        if checkpoint_name(step, "manifest.json") not in self.remote:
            return False
        files = self._manifest(step).get("files", {})
        stored = (self.remote.get(checkpoint_name(step, name)) for name in files)
        return all(s is not None and s.size == meta["bytes"] for s, meta in zip(stored, files.values(), strict=True))

    def _manifest(self, step: int) -> dict[str, Any]:
        """Empty where the checkpoint was removed meanwhile, or is damaged: such a one is not sent."""
        try:
            return read_json(self.folder / checkpoint_name(step, "manifest.json"))
        except (FileNotFoundError, EnvironmentFault):
            return {}

    def _parts(self, step: int) -> list[str]:
        return [*self._manifest(step).get("files", ()), "manifest.json"]

    def _send_growing(self, lengths: dict[str, int]) -> None:
        if "metrics.jsonl" in lengths:
            self._send("metrics.jsonl", lengths["metrics.jsonl"])
        if "trajectory" in lengths:
            rows = (self.folder / "trajectory/rows.jsonl").read_bytes().split(b"\n")[: lengths["trajectory"]]
            layout = read_json(self.folder / "trajectory/layout.json")
            numbers = sum(math.prod(entry["shape"]) for entry in layout)
            self._send("trajectory/layout.json")
            self._send("trajectory/weights.f32", 4 * numbers * len(rows))
            self._send("trajectory/rows.jsonl", sum(len(row) + 1 for row in rows))

    def _send_rolling(self) -> None:
        """Before a new checkpoint counts: every passing one, old and new, so that none is forgotten by a kill."""
        here = set(read_json(self.folder / ROLLING)) if (self.folder / ROLLING).exists() else set()
        self._passing |= here
        if self._passing:
            content = str(sorted(self._passing)).encode()
            self.remote[ROLLING] = Stored(ROLLING, len(content), self.store.put(self._key(ROLLING), content), 0.0)
            self.index.files.pop(ROLLING, None)  # the local list is sent when the old ones are gone

    def _remove_passing(self) -> None:
        here, there = set(local_steps(self.folder)), remote_steps(self.remote)
        for step in sorted(self._passing - here):
            if step in there and step < there[-1]:  # a newer one is whole
                self._drop(step)
            if step not in there or step < there[-1]:
                self._passing.discard(step)

    def _remove_halves(self, waiting: Iterable[int]) -> None:
        """What a killed upload left of checkpoints that nobody has any more."""
        found = {int(match[1]) for name in self.remote if (match := OF_CHECKPOINT.fullmatch(name))}
        for step in found - set(remote_steps(self.remote)) - set(waiting):
            self._drop(step)

    def _drop(self, step: int) -> None:
        names = [n for n in self.remote if (m := OF_CHECKPOINT.fullmatch(n)) and int(m[1]) == step]
        self._delete(sorted(names, key=lambda name: not name.endswith("manifest.json")))

    # ------------------------------------------------------------ files

    def _changed(self, everything: bool) -> list[str]:
        """Files outside checkpoint folders that differ from the remote's, status.json last."""
        found = [path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()]
        names = [str(path.relative_to(self.folder)) for path in found]
        kept = [n for n in names if not PRIVATE.fullmatch(n) and not OF_CHECKPOINT.fullmatch(n)]
        if not everything:
            kept = [name for name in kept if not LARGE.fullmatch(name)]
        return sorted((n for n in kept if self._differs(n)), key=lambda name: (name == "status.json", name))

    def _differs(self, name: str) -> bool:
        if not (self.folder / name).exists():
            return False
        known = self.remote is None or name in self.remote
        return not known or name not in self.index.files or self.index.touched(self.folder, name)

    def _send(self, name: str, length: int | None = None) -> None:
        """Send a file, or its first bytes; one that is gone meanwhile is passed over."""
        held = self.remote.get(name)
        if length is not None and held and held.size == length and held.tag == self.index.tag(name):
            return
        try:
            tag, stat, size = self.store.put_file(self._key(name), self.folder / name, length)
        except FileNotFoundError:
            return
        self.remote[name] = Stored(name, size, tag, 0.0)
        if not OF_CHECKPOINT.fullmatch(name):
            self.index.files[name] = (tag, size, stat.st_mtime_ns if size == stat.st_size else 0)

    def _delete(self, names: Iterable[str]) -> None:
        for name in list(names):
            self.store.delete([self._key(name)])
            self.remote.pop(name, None)
            self.index.files.pop(name, None)

    def _send_names(self) -> None:
        own = [name for name, id in names(self.folder.parent).items() if id == self.folder.name]
        for name in own:
            content = (self.folder.parent / ".names" / name).read_bytes()
            if self.index.tag(f".names/{name}") == (digest := hashlib.sha256(content).hexdigest()):
                continue
            try:
                self.store.put_if(f".names/{name}", content, None)
            except Exists:
                other = self.store.get(f".names/{name}")[0].decode().strip()
                if other != self.folder.name and self.store.list(other):
                    raise EnvironmentFault(
                        f"name {name} was given to run {other} of {self.store.url} by another machine; "
                        f"`inlearn resume {self.folder.name} name=…` gives this run one of its own"
                    ) from None
                self.store.put(f".names/{name}", content)
            self.index.files[f".names/{name}"] = (digest, 0, 0)

    def _key(self, name: str) -> str:
        return f"{self.folder.name}/{name}"
