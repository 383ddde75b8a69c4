"""From object storage into the local folders: small files to look at, whole checkpoints to go on from.

Files are fetched where the remote changed since they were last equal. A local file that changed itself stays, unless
the remote has the newer checkpoint: whoever has trained further has the run.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from inlearn.core.errors import EnvironmentFault
from inlearn.core.files import new_folder, read_json, sha256, write_bytes
from inlearn.runs.folder import ID, NAME
from inlearn.runs.remote_index import OF_CHECKPOINT, PRIVATE, Index, Objects, local_steps, remote_steps
from inlearn.runs.remote_root import url_of
from inlearn.runs.remote_store import PROBE_SECONDS, RemoteStore, Stored

AT_ONCE = 16
# Looked at only in the run's own page or by its own analyses: fetched when a run is taken up, not to list it.
LARGE = re.compile(r"checkpoints/(\d{9,}|damaged)/.*|(trajectory|figures|analysis|tensorboard|wandb)/.*|report\.html")
# What no single run owns: which name stands for which run, and what belongs to a plan.
SHARED = re.compile(rf"\.names/{NAME.pattern}|\.plans/{NAME.pattern}/(plan\.json|runs\.jsonl)")
WHOLE = ("config.json", "study.json", "status.json")  # without these it is no run yet


def refresh_root(root: Path) -> None:
    """Bring the small files of every run below `root` up to date, runs' names and plans. Nothing is fetched twice."""
    store = RemoteStore(url_of(root))
    runs: dict[str, dict[str, Stored]] = defaultdict(dict)
    shared: list[Stored] = []
    for stored in store.list(patience=PROBE_SECONDS):
        top, _, name = stored.key.partition("/")
        if ID.fullmatch(top):
            runs[top][name] = stored
        elif SHARED.fullmatch(stored.key):
            shared.append(stored)
    _pull_shared(store, root, shared)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda id: _refresh_run(store, root, id, runs[id]), runs))


def refresh_runs(root: Path, ids: Iterable[str], patience: float | None = None) -> None:
    """Bring the small files of these runs alone up to date: one listing each, however many others there are."""
    store = RemoteStore(url_of(root))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda id: _refresh_run(store, root, id, run_objects(store, id, patience)), ids))


def _refresh_run(store: RemoteStore, root: Path, id: str, objects: Objects) -> None:
    if not all(name in objects for name in WHOLE):
        return
    with _lock_of(root, id) as lock:
        if not _free(lock, root / id):
            return  # a process of this machine has the run, so what is here is the newest
        pull(store, root / id, objects, [name for name in objects if not LARGE.fullmatch(name)])


def _free(lock: BinaryIO, folder: Path) -> bool:
    """Take a run's lock unless another process has it; while the run is not here yet, that one is fetching it: wait."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if folder.exists():
                return False
        time.sleep(0.1)


def _lock_of(root: Path, id: str) -> BinaryIO:
    (root / ".locks").mkdir(parents=True, exist_ok=True)
    return (root / ".locks" / id).open("ab")


@contextlib.contextmanager
def sole(root: Path, id: str) -> Iterator[None]:
    """Nobody else on this machine fetches into a run's folder; the kernel gives the lock back after a kill."""
    with _lock_of(root, id) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _pull_shared(store: RemoteStore, root: Path, objects: Iterable[Stored]) -> None:
    for stored in objects:
        path = root / stored.key
        held = path.read_bytes() if path.exists() else b""
        if hashlib.md5(held, usedforsecurity=False).hexdigest() != stored.tag.strip('"'):
            write_bytes(path, store.get(stored.key)[0], sync=False)


def run_objects(store: RemoteStore, id: str, patience: float | None = None) -> dict[str, Stored]:
    """What the store holds of one run, by path relative to the run."""
    return {stored.key.partition("/")[2]: stored for stored in store.list(id, patience)}


def pull_run(store: RemoteStore, root: Path, id: str, say: Callable[[str], None]) -> None:
    """Make `<root>/<id>` able to go on from where anybody left off. Call with `sole` and the run's remote lease.

    Where the remote has a newer whole checkpoint than this machine, it, the best one and all files that go with them
    are fetched and checked; a damaged one is left out for the one before. Otherwise only what is missing here comes.
    """
    objects, folder = run_objects(store, id), root / id
    objects.pop("lease.json", None)  # it is ours
    if not all(name in objects for name in WHOLE):
        return
    here = local_steps(folder)
    newer = [step for step in remote_steps(objects) if not here or step > here[-1]]
    pull(store, folder, objects, [name for name in objects if not OF_CHECKPOINT.fullmatch(name)])
    for step in reversed(newer):
        try:
            fetch_checkpoint(store, folder, step)
        except Unusable as error:
            say(str(error))
        else:
            say(f"run {id}: fetched checkpoint {step:,} from {store.url}")
            break
    best = folder / "checkpoints" / "best.json"
    if newer and best.exists():
        with contextlib.suppress(Unusable):  # resuming does not need it, and `bring` says so when it is asked for
            fetch_checkpoint(store, folder, read_json(best)["step"])


def pull(store: RemoteStore, folder: Path, objects: Objects, names: Iterable[str]) -> None:
    """Fetch those of `names` that changed remotely; where both sides changed, the newer checkpoint decides."""
    index = Index.load(folder)
    ahead = (remote_steps(objects) or [-1])[-1] > (local_steps(folder) or [-1])[-1]
    names = [n for n in names if not PRIVATE.fullmatch(n) and _wanted(folder, index, n, objects[n].tag, ahead)]
    lease, steps = objects.get("lease.json"), remote_steps(objects)
    if folder.exists():
        _fetch_all(store, folder, folder, names, index)
    else:
        with new_folder(folder) as aside:  # a run is listed once it is whole
            _fetch_all(store, folder, aside, names, index)
            index.steps = steps
            index.save(aside)
    if ahead:
        for step in set(index.steps) - set(steps):  # passing checkpoints that whoever went on has removed
            _remove_checkpoint(folder, step)
    copied = _copy_lease(store, folder, index, lease)
    if names or copied or index.steps != steps:
        index.steps = steps
        index.save(folder)


def _wanted(folder: Path, index: Index, name: str, tag: str, ahead: bool) -> bool:
    if not (folder / name).exists():
        return True
    if index.tag(name) == tag:
        return False
    return ahead or not index.touched(folder, name)


def _fetch_all(store: RemoteStore, run: Path, into: Path, names: Iterable[str], index: Index) -> None:
    def fetch(name: str) -> None:
        path = into / name
        aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            tag = store.fetch(f"{run.name}/{name}", aside)
            aside.replace(path)
        except FileNotFoundError:  # removed since it was listed
            return
        finally:
            aside.unlink(missing_ok=True)
        index.note(into, name, tag)

    # Status last: who sees it finished finds the rest.
    ordered = sorted(names, key=lambda name: name == "status.json")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fetch, ordered[:-1]))
    for name in ordered[-1:]:
        fetch(name)


def _remove_checkpoint(folder: Path, step: int) -> None:
    place = folder / "checkpoints" / f"{step:09d}"
    if place.exists():
        aside = place.with_name(f".{place.name}.{os.getpid()}.aside")  # at once out of sight
        place.rename(aside)
        shutil.rmtree(aside)


def _copy_lease(store: RemoteStore, folder: Path, index: Index, lease: Stored | None) -> bool:
    """Keep a copy of another machine's lease, dated by its last heartbeat, so that `status` tells who is at work."""
    path = folder / "lease.json"
    if lease is None:
        drop_lease_copy(folder, index)
        return False
    with contextlib.suppress(FileNotFoundError):
        content, _ = store.get(f"{folder.name}/lease.json")
        write_bytes(path, content, sync=False)
        os.utime(path, (lease.modified, lease.modified))
        index.lease = json.loads(content)["token"]
    return True


def drop_lease_copy(folder: Path, index: Index) -> None:
    """Remove the copy of another machine's lease; a lease of this machine stays."""
    path = folder / "lease.json"
    if index.lease:
        with contextlib.suppress(FileNotFoundError, EnvironmentFault):
            if read_json(path)["token"] == index.lease:
                path.unlink()
        index.lease = ""
        index.save(folder)


# ---------------------------------------------------------------- checkpoints


class Unusable(EnvironmentFault):
    """A remote checkpoint is not whole."""


def fetch_checkpoint(store: RemoteStore, folder: Path, step: int) -> None:
    """Fetch one checkpoint unless it is here, checked against its manifest. Raises `Unusable`."""
    place = folder / "checkpoints" / f"{step:09d}"
    if (place / "manifest.json").exists():
        return
    if place.exists():
        shutil.rmtree(place)  # a checkpoint without its manifest is none
    with contextlib.suppress(FileExistsError):  # fetched by another process meanwhile
        _fetch_whole(store, folder, step, place)


def _fetch_whole(store: RemoteStore, folder: Path, step: int, place: Path) -> None:
    key = f"{folder.name}/checkpoints/{step:09d}"
    with new_folder(place) as aside:
        try:
            store.fetch(f"{key}/manifest.json", aside / "manifest.json")
            manifest = json.loads((aside / "manifest.json").read_bytes())
            for name, meta in manifest["files"].items():
                store.fetch(f"{key}/{name}", aside / name)
                if sha256(aside / name) != meta["sha256"]:
                    raise ValueError(f"the sha256 of {name} is not the one in its manifest")
        except (FileNotFoundError, ValueError, KeyError) as error:
            why = "a part is missing" if isinstance(error, FileNotFoundError) else error
            raise Unusable(f"checkpoint {step} at {store.url}/{folder.name} is left out: {why}") from None
        if place.exists():
            raise FileExistsError(place)


def bring(folder: Path, which: str) -> None:
    """Have the checkpoint "best", "last" or at a step on this machine, if the run's remote has it and this does not."""
    url = url_of(folder.parent)
    if url is None:
        return
    if which.isdigit() and int(which) not in known_steps(folder):
        refresh_runs(folder.parent, [folder.name])  # it may have been saved since this machine looked
    index, best = Index.load(folder), folder / "checkpoints" / "best.json"
    here, steps = local_steps(folder), index.steps
    if which == "last":
        step = max([*here, *steps], default=None)
    elif which == "best":
        step = read_json(best)["step"] if best.exists() else None
    else:
        step = int(which) if which.isdigit() else None
    if step in steps and step not in here:
        fetch_checkpoint(RemoteStore(url), folder, step)


def known_steps(folder: Path) -> list[int]:
    """Steps with a checkpoint here or at the remote as last listed, ascending."""
    return sorted({*local_steps(folder), *Index.load(folder).steps})
