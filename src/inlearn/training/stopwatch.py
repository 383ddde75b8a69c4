"""Which part of a step takes how long, told by hooks around the trainer's own update."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Task
from inlearn.core.draws import Address
from inlearn.training.trainer import Trainer

PARTS = ("data", "forward", "loss", "backward", "norm and clip", "update", "rest")


class Stopwatch:
    """Time from mark to mark, added to the part that began: by the clock, or on a CUDA device by its own events.

    On CUDA a part's time is what passes on the device between two marks, its waiting for the next launch included.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.marks: list[tuple[str, Any]] = []

    def mark(self, part: str) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            self.marks.append((part, event))
        else:
            self.marks.append((part, time.perf_counter()))

    def milliseconds(self) -> dict[str, float]:
        """Of every part since the last call; the last mark begins nothing."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        spent = dict.fromkeys(PARTS, 0.0)
        for (part, begin), (_, end) in itertools.pairwise(self.marks):
            spent[part] += begin.elapsed_time(end) if self.device.type == "cuda" else (end - begin) * 1e3
        self.marks.clear()
        return spent


class TimedTask:
    """A task whose batches are made, and brought to the device, on the watch."""

    def __init__(self, task: Task, watch: Stopwatch):
        self.task, self.watch = task, watch
        self.interface, self.labels = task.interface, task.labels

    def sample(self, at: Address, rows: int, first: int = 0) -> Batch:
        self.watch.mark("data")
        batch = self.task.sample(at, rows, first).to(self.watch.device)
        self.watch.mark("rest")
        return batch


class HeldTask:
    """A task that hands out one batch for ever: what remains of a step is everything but its data."""

    def __init__(self, task: Task, batch: Batch):
        self.batch = batch
        self.interface: Any = task.interface
        self.labels: Mapping[str, Sequence[float | str]] = task.labels

    def sample(self, at: Address, rows: int, first: int = 0) -> Batch:
        return self.batch


@contextlib.contextmanager
def watched(trainer: Trainer, watch: Stopwatch) -> Iterator[None]:
    """Within the block, every update of `trainer` leaves its marks: forward, loss, backward, norm and clip, update."""

    def marks(part: str) -> Callable[..., None]:
        return lambda *_: watch.mark(part)

    def after_loss(module: Any, inputs: Any, loss: Tensor) -> None:
        def backward(_: Tensor) -> None:
            watch.mark("backward")
            # Called when the whole backward pass is done; only from within it can that be asked for.
            torch.autograd.Variable._execution_engine.queue_callback(marks("norm and clip"))

        loss.register_hook(backward)

    with contextlib.ExitStack() as hooks:
        for handle in (
            trainer.parameters.loss.register_forward_pre_hook(marks("forward")),
            trainer.model.register_forward_pre_hook(marks("forward")),  # a shared prefix is a pass of its own
            trainer.model.register_forward_hook(marks("loss")),
            trainer.parameters.loss.register_forward_hook(after_loss),
            trainer.optimiser.register_step_pre_hook(marks("update")),
            trainer.optimiser.register_step_post_hook(marks("rest")),
        ):
            hooks.callback(handle.remove)
        yield
