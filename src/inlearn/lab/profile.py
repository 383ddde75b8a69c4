"""Where a training step's time goes, how far it is from what the machine can do, and what stands in the way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from inlearn.core import device as devices
from inlearn.core.contract import Task
from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.build import build, build_trainer, why_not_compiled
from inlearn.lab.described import blamed_on
from inlearn.lab.limits import Operator, limits, verdict
from inlearn.lab.request import request
from inlearn.lab.roofline import StepCost, copy_rate, hold, launch_cost, product_rate, step_cost
from inlearn.lab.signature import STACKS_PAY
from inlearn.lab.start import carry_over
from inlearn.lab.trackers.choice import check_trackers
from inlearn.training.stopwatch import HeldTask, Stopwatch, TimedTask, watched
from inlearn.training.trainer import Trainer

SECONDS = 3.0  # of timed steps, unless their number is given
ROUND = 16  # steps: enough to meet a study that draws several batches at once
PROFILED = 16  # steps at most under torch.profiler


@dataclass(frozen=True)
class Part:
    """A part of the step: mean milliseconds, and their share of the step."""

    name: str
    ms: float
    share: float


@dataclass(frozen=True)
class Profile:
    """Everything that `inlearn profile` prints. Times are of one step; rates are per second."""

    study: str
    parameters: int
    batch: int
    device: str
    device_name: str
    threads: int
    precision: str
    steps: int  # that were timed
    ms: float
    waited: float | None  # share of that time in which a CPU did something else; on a GPU nobody knows
    parts: list[Part]
    operators: list[Operator]
    calls: int  # operators a step, views among them
    flop: int
    traffic: int  # bytes that operators read and write, without any cache or fusion
    compulsory: int  # bytes that must move
    flop_rate: float  # achieved
    product_rate: float  # of the best matrix product
    byte_rate: float  # achieved: traffic
    copy_rate: float  # of a copy in memory
    cached_copy_rate: float  # of a copy of as many bytes as an operator touches in the mean
    launch_us: float  # of an operator that has nothing to do
    floor_ms: float
    limits: dict[str, float]  # shares of the step, together 1
    verdict: str


def profile(
    study: str,
    overrides: Sequence[str],
    root: Path,
    steps: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Profile:
    """Profile the run that `overrides` ask for, on `steps` steps (none: three seconds of them). Nothing is kept.

    Refuses what `inlearn run` refuses; UserError where a run cannot be profiled: several processes, other devices.
    """
    found = discovery.study(study)
    with blamed_on(found.source):
        asked = request(found, overrides, root, say)
        config = asked.config
        check_trackers(config.track)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("inlearn profile looks at one process; start it without torchrun")
        if config.execution.engine == "stacked":
            raise UserError("execution.engine = stacked: a step is profiled alone; expected auto or solo")
        if (step := config.execution.step) not in ("auto", "eager"):
            raise UserError(f"execution.step = {step}: such a step has no parts to time; expected auto or eager")
        built = build(config)
        if built.device.type not in ("cpu", "cuda"):
            raise UserError(f"device = {config.execution.device}: inlearn profile measures cpu and cuda alone")
        trainer = build_trainer(built)
        if asked.parent is not None:
            carry_over(trainer, root, asked.parent)
        compiles = why_not_compiled(built) is None
        return examine(trainer, built.tasks[0], found.kind, config.precision, steps, compiles)


def examine(
    trainer: Trainer, task: Task, study: str, precision: str, steps: int | None = None, compiles: bool = True
) -> Profile:
    """Profile `trainer`, which trains on meanwhile, at the threads that torch has now."""
    device = trainer.device
    parts, waited, timed = _timed(trainer, task, steps)
    ms = sum(parts.values())
    held = hold(trainer, task)
    _make_ready(trainer)
    cost = step_cost(trainer, held)
    total = cost.total
    inside = ms - parts["data"]
    profiled_ms, operators = _profiled(trainer, held, cost, inside)
    rate, launch = product_rate(device, precision), launch_cost(device)
    stacks = device.type != "cpu" or trainer.count * held.batch.weights.numel() < STACKS_PAY
    shares = limits(inside, parts["data"], operators, profiled_ms, cost, launch * 1e3, device)
    return Profile(
        study=study,
        parameters=trainer.count,
        batch=trainer.training.batch,
        device=str(device),
        device_name=devices.describe(device),
        threads=torch.get_num_threads(),
        precision=precision,
        steps=timed,
        ms=ms,
        waited=None if device.type == "cuda" else waited,
        parts=[Part(name, spent, spent / ms) for name, spent in parts.items()],
        operators=operators,
        calls=total.calls,
        flop=total.flop,
        traffic=total.bytes,
        compulsory=cost.compulsory,
        flop_rate=total.flop / inside * 1e3,
        product_rate=rate,
        byte_rate=total.bytes / inside * 1e3,
        copy_rate=copy_rate(device),
        cached_copy_rate=copy_rate(device, total.bytes // max(1, cost.moving)),
        launch_us=launch * 1e6,
        floor_ms=cost.floor(rate, copy_rate(device, cost.compulsory)) * 1e3,
        limits=shares,
        verdict=verdict(shares, operators, rate, device, stacks, compiles),
    )


def _make_ready(trainer: Trainer) -> None:
    """Before an update: training lines are taken away, and at the end of the schedule it begins again."""
    trainer.keep_losses(None)
    if trainer.progress.step >= trainer.training.steps:
        trainer.progress.step = 0


def _timed(trainer: Trainer, task: Task, steps: int | None) -> tuple[dict[str, float], float, int]:
    """Mean milliseconds of every part over the quickest of several rounds, the share of that round in which this thread
    did not run, and how many steps were timed."""
    watch = Stopwatch(trainer.device)
    timed = TimedTask(task, watch)

    def spend(count: int) -> tuple[dict[str, float], float]:
        running = time.thread_time()
        for _ in range(count):
            _make_ready(trainer)
            watch.mark("rest")
            trainer.update(timed)
        watch.mark("rest")
        running = (time.thread_time() - running) * 1e3
        spent = watch.milliseconds()
        return {part: ms / count for part, ms in spent.items()}, max(0.0, 1 - running / sum(spent.values()))

    with watched(trainer, watch):
        spend(2)
        if steps is None:
            steps = min(max(int(SECONDS * 1e3 / sum(spend(2)[0].values())), 4), 32 * ROUND)
        rounds = max(1, steps // ROUND)
        found = [spend(steps // rounds + (turn < steps % rounds)) for turn in range(rounds)]
    parts, waited = min(found, key=lambda one: sum(one[0].values()))
    return parts, waited, steps


def _profiled(trainer: Trainer, held: HeldTask, cost: StepCost, ms: float) -> tuple[float, list[Operator]]:
    """Milliseconds of a step under torch.profiler, and its operators, the longest first, of the quickest of three."""
    steps = min(max(int(500 / ms), 2), PROFILED)
    return min((_look(trainer, held, cost, steps) for _ in range(3)), key=lambda look: look[0])


def _look(trainer: Trainer, held: HeldTask, cost: StepCost, steps: int) -> tuple[float, list[Operator]]:
    """Means over `steps` steps. On a CUDA device an operator's time is that of its kernels."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or it tells stderr when it starts and stops
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    cuda = trainer.device.type == "cuda"
    with torch_profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as seen:
        start = time.perf_counter()
        for _ in range(steps):
            _make_ready(trainer)
            trainer.update(held)
        if cuda:
            torch.cuda.synchronize(trainer.device)
        took = (time.perf_counter() - start) * 1e3 / steps
    found = []
    for event in seen.key_averages():
        if event.device_type != DeviceType.CPU or not event.key.startswith("aten::"):
            continue  # kernels, which their operators answer for; the autograd engine; Python
        spent = (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e3 / steps
        flop = cost.operators[event.key].flop if event.key in cost.operators else 0
        rate = flop / spent * 1e3 if flop and spent else None
        found.append(Operator(event.key.removeprefix("aten::"), spent, event.count / steps, flop, rate))
    return took, sorted(found, key=lambda operator: -operator.ms)
