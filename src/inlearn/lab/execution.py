"""What surrounds one process that works on a run: versions, the machine's description, how the model is held."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import inlearn
from inlearn.core import device as devices
from inlearn.lab.build import Built, why_not_compiled
from inlearn.runs.folder import RunFolder
from inlearn.runs.remote_root import shown
from inlearn.training import compiled

if TYPE_CHECKING:
    from inlearn.training.ranks import Ranks


def segment(built: Built, from_step: int, members: int | None, step: str) -> dict[str, Any]:
    """What may differ between two starts of one run; bits are promised only where all but the members is equal.

    members: how many runs are trained together as one stack, with no effect on each; none for a model alone.
    step: how updates are made, "eager", "compiled" or "graphs".
    """
    device = built.device
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "from_step": from_step,
        "engine": os.environ.get("INLEARN_ENGINE", "none"),  # what a sweep's engine tells its workers
        "form": "solo" if members is None else "stacked",
        "members": members or 1,
        "step": step,
        "matmul": built.config.execution.matmul,
        "kernels": built.kernels,
        "mkl_cbwr": os.environ.get("MKL_CBWR"),
        "device": str(device),
        "device_name": devices.describe(device),
        "threads": built.config.execution.threads,
        "processes": built.ranks.world,
        "parallel": built.parallel,
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "inlearn": inlearn.__version__,
        "commit": commit(),
        "command": sys.argv,
    }


BITS_DEPEND_ON = (
    *("form", "step", "matmul", "kernels", "mkl_cbwr", "device", "device_name", "threads", "processes", "parallel"),
    "torch",
)


def form_of(folder: RunFolder, asked: str) -> str:
    """ "solo" or "stacked": as asked for, else as the run was begun, else alone."""
    if asked != "auto":
        return asked
    return folder.segments[-1].get("form", "solo") if folder.segments else "solo"


def launch_of(folder: RunFolder, built: Built, stacked: bool) -> tuple[str, str]:
    """How the updates are made, "eager", "compiled" or "graphs", and why."""
    asked, here = built.config.execution.step, built.device.type
    if asked != "auto":
        return asked, f"execution.step = {asked}"
    begun = folder.segments[-1] if folder.segments else {}
    if begun and begun["device"].partition(":")[0] == here:
        return begun.get("step", "eager"), "as the run was begun"
    if built.ranks.world > 1 or here not in ("cpu", "cuda"):
        return "eager", "CUDA graphs and compiling need one process on cuda or cpu"
    if here == "cuda":
        return "graphs", "a small model leaves a GPU waiting for the host"
    # The horizon, not how far this invocation goes: a run that is extended has the bits of one that never stopped.
    horizon = built.config.training.steps
    ahead = f"training.steps = {horizon:,}"
    if horizon < compiled.STEPS:
        return "eager", f"{ahead}: less than {compiled.STEPS:,} do not repay compiling"
    if stacked and built.config.training.stop:
        return "eager", "a stack is compiled again whenever a member leaves, as training.stop lets them"
    why = why_not_compiled(built)
    return ("eager", f"not compiled: {why}") if why else ("compiled", f"{ahead} repays some 20 s of compiling")


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In which ways a resumed run may differ in its last bits from an uninterrupted one."""
    before = {"form": "solo", "step": "eager", "matmul": "float32", "kernels": "torch"} | before
    return [f"{k}: {before.get(k)} before, {now[k]} now" for k in BITS_DEPEND_ON if before.get(k) != now[k]]


@cache
def commit() -> str | None:
    """The commit of the code, with "+changes" when the working tree differs; None outside a checkout."""
    here = Path(inlearn.__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        tracked = git("ls-files", "--error-unmatch", "__init__.py")
        changes = git("status", "--porcelain", "--untracked-files=no", ".")
        return (git("rev-parse", "HEAD") + ("+changes" if changes else "")) if tracked else None
    except (OSError, subprocess.CalledProcessError):
        return None


def resume_command(folder: RunFolder, ranks: Ranks) -> str:
    here = folder.path.parent
    where = "" if here == Path("runs").resolve() or here == Path("runs") else f" --runs {shlex.quote(shown(here))}"
    processes = f"torchrun --nproc-per-node {ranks.world} --no-python " if ranks.world > 1 else ""
    return f"{processes}inlearn resume {folder.name or folder.id}{where}"
