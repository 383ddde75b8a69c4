"""One run's training as the loop, the writers and a checkpoint see it, however its updates are computed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from inlearn.core.draws import StreamSeeds
from inlearn.training.config import Training
from inlearn.training.parameters import Parameters, check_same
from inlearn.training.schedules import rate_factor


class Diverged(RuntimeError):
    """The loss or the weights stopped being numbers; the message names the update, counted from 1."""


@dataclass
class Progress:
    """Where a run is. Plain values, kept in the checkpoint's JSON."""

    step: int = 0
    phase: int = 0
    phase_start: int = 0
    best: dict[str, Any] | None = None  # {"step", "value"} of the best evaluation so far
    looks: dict[str, Any] = field(default_factory=dict)  # what stop conditions remember, by condition
    ended: str | None = None  # why the run ended before its last step
    failed: bool = False  # whether that end is a failure

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Learner(ABC):
    """A model, what is asked of it, and how far it is. `model` is the run's own, to be evaluated at any step."""

    model: nn.Module
    parameters: Parameters
    optimiser: torch.optim.Optimizer

    def __init__(self, training: Training, seeds: StreamSeeds):
        self.training, self.seeds = training, seeds
        self.progress = Progress()
        self.rate_used = 0.0  # of the last update

    @property
    @abstractmethod
    def gradient_norm(self) -> Tensor:
        """Of the last update, before clipping."""

    @abstractmethod
    def waiting_losses(self) -> Tensor:
        """(n,) the losses since the last training line. They stay on the device, so that no step waits for them."""

    @abstractmethod
    def keep_losses(self, waiting: Tensor | None) -> None:
        """Let `waiting` (none: nothing) be the losses since the last training line."""

    @abstractmethod
    def forget_moments(self) -> None:
        """Let the optimiser begin afresh."""

    @property
    def count(self) -> int:
        """How many parameters the model has, in all processes together."""
        return sum(math.prod(shape) for _, shape in self.parameters.layout)

    def rate(self, ahead: int = 0) -> float:
        """The learning rate of the next update, or of the one `ahead` updates after it."""
        step = self.progress.step + ahead
        return self.training.rate * rate_factor(self.training.schedule, step, self.training.steps)

    # ------------------------------------------------------------ losses on the way

    def check_losses(self) -> Tensor:
        """The waiting losses (n,); raises `Diverged` with the exact step if one is not finite."""
        losses = self.waiting_losses().cpu()
        if not (finite := torch.isfinite(losses)).all():
            bad = int((~finite).nonzero()[0])
            step = self.progress.step - len(losses) + bad + 1
            raise Diverged(f"the loss is {float(losses[bad])} at step {step}")
        return losses

    def check(self) -> None:
        """Raise `Diverged` unless everything that a checkpoint would keep is finite.

        Loss n is computed before update n, so it does not vouch for the weights that update n made.
        """
        self.check_losses()
        if not self.parameters.finite():
            raise Diverged(f"the weights are not finite after step {self.progress.step}")

    def take_mean_loss(self) -> float:
        mean = float(self.check_losses().double().mean())
        self.keep_losses(None)
        return mean

    # ------------------------------------------------------------ phases

    def begin_phase(self, index: int, fresh_optimiser: bool) -> None:
        self.progress.phase, self.progress.phase_start = index, self.progress.step
        if fresh_optimiser:
            self.forget_moments()

    # ------------------------------------------------------------ what a checkpoint holds

    def weights(self) -> dict[str, Tensor]:
        """Whole tensors by name; with several processes, for the first, while all of them call."""
        return self.parameters.weights()

    def optimiser_state(self) -> dict[str, Tensor]:
        moments = {f"moments.{name}": value for name, value in self.parameters.moments(self.optimiser).items()}
        return {**moments, "losses": self.waiting_losses()}

    def load(self, weights: Mapping[str, Tensor], optimiser: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Go on where a checkpoint stopped. Names and shapes must be the model's own."""
        check_same(dict(self.parameters.layout), weights)
        self.parameters.place(weights)
        moments = {k.removeprefix("moments."): v for k, v in optimiser.items() if k.startswith("moments.")}
        if moments:
            self.parameters.place_moments(self.optimiser, moments)
        self.keep_losses(optimiser["losses"])
        self.progress = Progress(**progress)
