"""Training set-ups for updates without the host: every transformer case, on a task that draws at any step there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from transformer_cases import CASES

from inlearn.core import draws
from inlearn.core.batch import Batch
from inlearn.core.contract import Task
from inlearn.core.draws import Address, Addresses
from inlearn.core.spaces import Interface, Tokens
from inlearn.models.initialise import initialise
from inlearn.training.config import Training
from inlearn.training.graphs import Alone, DeviceUpdates, Together
from inlearn.training.stack import Member, Stack
from inlearn.training.trainer import Trainer

ROWS, STEPS, BEFORE = 6, 5, 3
COLUMNS = slice(0, 5, 2)
every_case = pytest.mark.parametrize("case", CASES)
with_and_without_prefix = pytest.mark.parametrize("prefix", [False, True], ids=["rows", "branches"])


@dataclass(frozen=True)
class Seeds:
    init: int = 0
    data: int = 0
    dropout: int = 0
    noise: int = 0
    eval: int = 0


@dataclass(frozen=True)
class Drawn:
    """Random inputs and targets of an interface. `prefix`: pairs of rows share one; `columns`: fixed scored ones."""

    interface: Interface
    prefix: bool = False
    columns: slice | None = None
    labels: Mapping[str, Sequence[float | str]] = field(default_factory=dict)

    def sample(self, at: Address | Addresses, rows: int, first: int = 0) -> Batch:
        device = at.step.device if isinstance(at.step, Tensor) else torch.device("cpu")

        def drawn(name: str, space: object, count: int, steps: int, width: int | None = None) -> Tensor:
            key = at.key(name, device=device)
            if isinstance(space, Tokens):
                return draws.integers(key, count, space.size, (steps,))
            return draws.normal(key, count, (steps, width or space.width))

        inputs, outputs = self.interface.inputs, self.interface.outputs
        weights = torch.zeros(*at.key("weights", device=device).shape, rows, STEPS, device=device)
        weights[..., self.columns or slice(0, STEPS, 2)] = 1.0
        targets = drawn("targets", outputs, rows, STEPS, getattr(outputs, "answers", None))
        before = drawn("prefix", inputs, rows // 2, BEFORE) if self.prefix else None
        return Batch(drawn("inputs", inputs, rows, STEPS), targets, weights, before, columns=self.columns)

    @classmethod
    def combined(cls, tasks: Sequence[Drawn]) -> Task | None:
        return tasks[0]


def training(**asked: object) -> Training:
    given = {"steps": 40, "batch": ROWS, "rate": 0.01, "clip": 0.5, "schedule": {"kind": "onecycle"}}
    return Training.model_validate({**given, **asked})


def model_of(case: str, dropout: float, init: int = 0, device: str = "cpu") -> torch.nn.Module:
    settings, interface = CASES[case]
    model = settings.model_copy(update={"dropout": dropout}).build(interface)
    initialise(model, Seeds(init))
    return model.to(device)


def task_of(case: str, **asked: object) -> Drawn:
    return Drawn(CASES[case][1], **asked)


def trainer_of(case: str, dropout: float = 0.1, device: str = "cpu", **asked: object) -> Trainer:
    model = model_of(case, dropout, device=device)
    return Trainer(model, training(**asked), Seeds(), torch.device(device), "float32", 40)


def stack_of(case: str, count: int = 3, dropout: float = 0.1, device: str = "cpu", **task: object) -> Stack:
    """Members of distinct rates, clips and seeds."""
    members = [
        Member(
            model_of(case, dropout, e, device),
            training(rate=0.01 * (1 + e), clip=None if e == 1 else 0.5 + e),
            Seeds(e, e, e, e),
            [task_of(case, **task)],
            40,
        )
        for e in range(count)
    ]
    return Stack(members, torch.device(device), "float32")


def updates_of(one: Alone | Together) -> tuple[DeviceUpdates, list[str]]:
    """And what they say."""
    heard: list[str] = []
    return DeviceUpdates(one, heard.append, heard.append), heard


def run(updates: DeviceUpdates, count: int) -> None:
    end = updates.one.members[0].progress.step + count
    while (step := updates.one.members[0].progress.step) < end:
        updates.advance(end - step)
    if updates.device.type == "cuda":
        torch.cuda.synchronize()
