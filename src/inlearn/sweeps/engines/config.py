"""What a user may ask of an engine, `engine=slurm engine.partition=gpu`: never part of a run or plan. No torch here."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, field_validator

from inlearn.core.configuration import Config
from inlearn.sweeps.engine import Engine
from inlearn.sweeps.engines import machine


@dataclass(frozen=True)
class Places:
    """Where runs, or stacks of them, go on at once. `count`: how many do, None where nobody can say beforehand.
    `device`: of what kind, unless a run says so itself. `memory`: bytes of one place, None where unknown."""

    count: int | None
    device: str
    memory: int | None = None


class EngineConfig(Config):
    """`restarts`: how often a run whose worker died is begun again. `stop_on_failure`: whether the first failed run
    stops the sweep; otherwise the rest carries on. `stack`: how many runs of one shape are trained together in one
    process: `auto` where that pays, `none`, or so many at most."""

    restarts: NonNegativeInt = 3
    stop_on_failure: bool = False
    stack: Literal["auto", "none"] | int = "auto"

    @field_validator("stack", mode="before")
    @classmethod
    def _a_choice_or_a_number(cls, stack: Any) -> Any:
        if stack not in ("auto", "none") and not (re.fullmatch(r"\d+", str(stack)) and int(stack) > 1):
            raise ValueError(f"expected auto, none, or a whole number from 2 on, not {stack}")
        return stack

    def places(self) -> Places:
        raise NotImplementedError

    def build(self, plan_folder: Path) -> Engine:
        """The live engine; what it needs to keep (logs, job ids) goes into its own folder of `plan_folder`."""
        raise NotImplementedError


def _places_here(workers: int | None, cores: float, share: float) -> Places:
    """Places on this machine, each with so many cores, and with its share of a card where it takes one at all."""
    cards = len(machine.cards()) if share else 0
    fit = math.floor(cards / share) if cards else math.floor(machine.cores() / cores)
    count = workers or max(1, fit)
    kind = "cuda" if cards else os.environ.get("DEVICE", "cpu").partition(":")[0]
    free = machine.free_memory(kind)
    return Places(count, kind, None if free is None else free // math.ceil(count / max(1, cards)))


class LocalConfig(EngineConfig):
    """Processes on this machine. `workers`: default one a GPU, or one a core."""

    kind: Literal["local"] = "local"
    workers: PositiveInt | None = None

    def places(self) -> Places:
        return _places_here(self.workers, 1, 1)

    def build(self, plan_folder: Path) -> Engine:
        from inlearn.sweeps.engines.local import LocalEngine

        return LocalEngine(self, plan_folder)


def _minutes(value: Any) -> Any:
    """Minutes, or Slurm's HH:MM:SS and D-HH:MM:SS, rounded up to minutes."""
    if isinstance(value, str) and (parts := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", value)):
        days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
        return (days * 24 + hours) * 60 + minutes + (seconds > 0)
    return value


def _bytes(memory: str) -> int:
    """Slurm's spelling of memory: a number of MiB, or with K, M, G or T."""
    return int(memory.rstrip("KMGT")) << (20 if memory[-1].isdigit() else 10 * (1 + "KMGT".index(memory[-1])))


class SlurmConfig(EngineConfig):
    """A Slurm cluster through submitit: one job array, whose tasks carry out one run after the other.

    `partition`, `time` (minutes or HH:MM:SS), `memory` (16G): where left out, what `sinfo` says. `cpus`, `gpus`: of one
    task, which trains one run at a time. `jobs`: most tasks of the array, by default one a run as far as Slurm allows.
    `parallel`: how many of them run at once. `signal_seconds`: how long before the time limit a run is told to save.
    `setup`: lines of shell before Python starts. `detach`: submit, and leave the jobs to Slurm.
    """

    kind: Literal["slurm"] = "slurm"
    partition: str | None = None
    time: Annotated[PositiveInt, BeforeValidator(_minutes)] | None = None
    memory: Annotated[str, Field(pattern=r"^[1-9]\d*[KMGT]?$")] | None = None
    cpus: PositiveInt = 1
    gpus: Annotated[int, Field(ge=0, le=1)] = 0
    constraint: str | None = None
    exclude: str | None = None
    account: str | None = None
    qos: str | None = None
    jobs: PositiveInt | None = None
    parallel: PositiveInt | None = None
    signal_seconds: PositiveInt = 120
    setup: tuple[str, ...] = ()
    detach: bool = False

    def places(self) -> Places:
        given = [count for count in (self.jobs, self.parallel) if count is not None]
        memory = None if self.gpus or self.memory is None else _bytes(self.memory)
        return Places(min(given, default=None), "cuda" if self.gpus else "cpu", memory)

    def build(self, plan_folder: Path) -> Engine:
        from inlearn.sweeps.engines.slurm import SlurmEngine

        return SlurmEngine(self, plan_folder)


class RayConfig(EngineConfig):
    """Ray, on this machine or a cluster.

    `address`: `auto`, HOST:PORT or ray://HOST:PORT of a cluster; without it (and without RAY_ADDRESS) Ray is started
    here for the sweep. `workers`: how many runs at once; default as many as fit, new nodes included. `cpus`, `gpus`: of
    one worker; `gpus` may be a part of a card, and is by default one wherever there are cards.
    """

    kind: Literal["ray"] = "ray"
    address: Annotated[str, Field(pattern=r"^(auto|(ray://)?[^\s:/]+:\d{1,5})$")] | None = None
    workers: PositiveInt | None = None
    cpus: Annotated[float, Field(gt=0)] = 1
    gpus: Annotated[float, Field(ge=0, le=1)] | None = None

    def places(self) -> Places:
        if self.address or os.environ.get("RAY_ADDRESS"):
            return Places(self.workers, "cuda" if self.gpus else "cpu")
        return _places_here(self.workers, self.cpus, 1 if self.gpus is None else self.gpus)

    def build(self, plan_folder: Path) -> Engine:
        from inlearn.sweeps.engines.ray import RayEngine

        return RayEngine(self, plan_folder)


class Invocation(Config):
    """What one `inlearn sweep` says beside its plan."""

    engine: Annotated[LocalConfig | SlurmConfig | RayConfig, Field(discriminator="kind")] = LocalConfig()
