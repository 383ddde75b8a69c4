"""The process that talks to Weights & Biases: `python -m` this, one JSON object a line on stdin, answers on stdout.

The first object is what `begin` reads; then {"log": {name: value}}, {"mark": step}, {"save": [file, name]},
{"code": [files]}, and {"end": state} last. Where stdin ends without it, the run was killed. This process outlives
signals that ask the run to leave, because its end is the run's own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import inlearn


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    messages, answers = _private_pipes()

    def tell(**message: Any) -> None:
        print(json.dumps(message), file=answers, flush=True)

    try:
        _carry_out((json.loads(line) for line in messages), tell)
    except Exception as error:  # whatever the service or its client raises
        tell(error=f"{type(error).__name__}: {error}".splitlines()[0])
        return 1
    return 0


def _private_pipes() -> tuple[Any, Any]:
    """Our stdin and stdout under numbers that no child inherits; what others print goes to the log."""
    messages, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return messages, answers


def _carry_out(messages: Iterator[Mapping[str, Any]], tell: Any) -> None:
    run = begin(next(messages), tell)
    state = "killed"
    for message in messages:
        if "log" in message:
            run.log(message["log"])
        elif "mark" in message:
            tell(marked=message["mark"])
        elif "save" in message:
            source, name = message["save"]
            _keep(run, Path(source), name)
        else:
            state = message["end"]
    run.summary["state"] = state
    if state == "interrupted":
        run.mark_preempting()  # a sweep gives such a run to the next agent
    run.finish(exit_code=0 if state == "finished" else 1)


def begin(asked: Mapping[str, Any], tell: Any) -> Any:
    """The W&B run; kept offline, with a word to the user, where the service cannot be reached or refuses us."""
    import wandb

    def init(mode: str) -> Any:
        settings = wandb.Settings(console="off", silent=True, program=asked["program"], x_stats_pid=asked["pid"])
        return wandb.init(**asked["init"], mode=mode, resume="allow" if mode == "online" else None, settings=settings)

    try:
        run = init(asked["mode"])
    except Exception as error:
        if asked["mode"] == "offline":
            raise
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        tell(warn=f"W&B cannot be used online, so this run is kept offline: {why}")
        wandb.teardown()  # its service holds the id for the attempt that failed
        run = init("offline")
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    run.summary.update(asked["summary"])
    _keep_code(run, [Path(path) for path in asked["sources"]])
    offline = run.settings.mode == "offline"
    tell(say=f"W&B, offline: `wandb sync {Path(run.dir).parent}` uploads it" if offline else f"W&B: {run.url}")
    return run


def _keep(run: Any, source: Path, name: str) -> None:
    """Copy a file into the W&B run's folder and upload it: a link would break when an offline run is moved."""
    copy = Path(run.dir) / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, copy)
    run.save(copy, base_path=run.dir, policy="now")


def _keep_code(run: Any, sources: list[Path]) -> None:
    """code/inlearn.zip: our sources as they are on this machine, and the user's own study."""
    package = Path(inlearn.__file__).parent
    archive = Path(run.dir) / "code" / "inlearn.zip"
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            file.write(path, path.relative_to(package.parent))
        for path in sources:
            file.write(path, path.name)
    run.save(archive, base_path=run.dir, policy="now")


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # the client's exit hooks wait for a service that may hang
