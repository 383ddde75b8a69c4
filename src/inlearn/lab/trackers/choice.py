"""Which trackers a run has."""

from __future__ import annotations

import os
from importlib.util import find_spec

from inlearn.core.errors import UserError
from inlearn.lab.config import RunBase, Track
from inlearn.lab.logs import logger_of
from inlearn.lab.trackers.guarded import Guarded
from inlearn.lab.trackers.tensorboard_mirror import TensorBoardMirror
from inlearn.lab.trackers.wandb_mirror import WandbMirror, wandb_mode
from inlearn.runs.folder import RunFolder


def check_trackers(track: Track) -> None:
    """Raise `UserError` where a tracker is asked for that is not installed: before a run's folder is made."""
    wanted = {"wandb": wandb_mode(track, os.environ) is not None, "tensorboard": track.tensorboard}
    for name, is_wanted in wanted.items():
        if is_wanted and not _installed(name):
            raise UserError(f"{name} is asked for and not installed: pip install 'inlearn[{name}]'")


def _installed(name: str) -> bool:
    spec = find_spec(name)
    return spec is not None and spec.origin is not None  # a folder wandb/ of offline runs is no package


def trackers_of(folder: RunFolder, config: RunBase) -> list[Guarded]:
    """The trackers that `config` and the environment ask for; `folder` is as its next line will find it."""
    begun = (folder.path / "metrics.jsonl").exists()
    before = folder.status.step if begun else -1
    found, log = [], logger_of(folder.path)
    if mode := wandb_mode(config.track, os.environ):
        found.append(Guarded("W&B", lambda: WandbMirror(folder, config, mode, before), log.warning))
    if config.track.tensorboard:
        found.append(Guarded("TensorBoard", lambda: TensorBoardMirror(folder, before), log.warning))
    return found
