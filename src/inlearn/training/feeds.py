"""Where the batches of an update with fixed shapes come from: drawn on the device, or on the host and copied there."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Task
from inlearn.core.draws import Address, Addresses
from inlearn.training.watches import Waits

PARTS = ("inputs", "targets", "weights", "prefix")


class Unsteady(RuntimeError):
    """An update cannot be repeated as a graph; the message says why."""


class DeviceFeed:
    """Batches of a task that draws them on the device, at a step counted there."""

    def __init__(self, task: Task, rows: int):
        self.task, self.rows = task, rows

    def batch(self, at: Address | Addresses) -> Batch:
        return _fixed(self.task.sample(at, self.rows))


class HostFeed:
    """Batches drawn on the host, copied into memory on the device that stays where it is."""

    def __init__(self, like: Batch, device: torch.device):
        self.device = device
        empty = {name: None if (x := getattr(like, name)) is None else torch.empty_like(x, device=device)
                 for name in PARTS}  # fmt: skip
        self._batch = _fixed(replace(like, **empty))

    def fill(self, batch: Batch) -> None:
        """Take the next batch. Raises `Unsteady` if its shapes are others than those of the first."""
        for name in PARTS:
            there, value = getattr(self._batch, name), getattr(batch, name)
            shapes = [None if x is None else tuple(x.shape) for x in (there, value)]
            if shapes[0] != shapes[1] or _fixed(batch).columns != self._batch.columns:
                raise Unsteady(f"batches change their shape: {name} {shapes[0]} and {shapes[1]}")
            if value is not None:
                there.copy_(self._pinned(value), non_blocking=True)

    def batch(self, at: Address | Addresses) -> Batch:
        return self._batch

    def _pinned(self, value: Tensor) -> Tensor:
        """In memory that the device can read by itself; torch keeps it until the copy is made."""
        return value.pin_memory() if self.device.type == "cuda" and value.device.type == "cpu" else value


def _fixed(batch: Batch) -> Batch:
    """What training needs. Where the task has fixed no columns, every position counts, most of them with weight zero:
    to look which are asked would make the host wait, and their number might change."""
    columns = slice(0, batch.weights.shape[-1]) if batch.columns is None else batch.columns
    return Batch(batch.inputs, batch.targets, batch.weights, batch.prefix, columns=columns)


def why_not_on_device(
    task: Task | None, at: Address | Addresses, rows: int, drawn: Batch, device: torch.device
) -> str | None:
    """Why `task` cannot draw its batches on `device`, at the step that `at` has there; None where it can.

    It is tried twice, since the first time may fill caches, and must give what the host has `drawn` at the same step.
    """
    if task is None:
        return "the runs' tasks cannot be drawn together"
    name = f"task {type(task).__name__}"
    try:
        with torch.no_grad():
            task.sample(at, rows)
            with Waits(device) as waits:
                batch = task.sample(at, rows)
    except Exception as error:  # of a task that was never asked for a step on the device
        return f"{name} takes no step counted there ({type(error).__name__}: {error})"
    if waits.found:
        return f"{name} makes the device and the host wait for each other ({waits.found[0]})"
    for part in PARTS:
        here, there = getattr(drawn, part), getattr(batch, part)
        if (here is None) != (there is None) or (here is not None and not _alike(here, there)):
            return f"{name} draws other {part} there"
    return None


def _alike(host: Tensor, device: Tensor) -> bool:
    """Integers equal, reals up to the last bits of another library of functions."""
    if host.shape != device.shape or host.dtype != device.dtype:
        return False
    host, device = host.cpu(), device.cpu()
    return torch.allclose(host, device, 1e-4, 1e-5) if host.is_floating_point() else torch.equal(host, device)
