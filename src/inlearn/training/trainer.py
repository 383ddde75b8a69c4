"""What one update does, and everything that a checkpoint must hold to go on exactly."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from inlearn.core.contract import Task
from inlearn.core.draws import Address, StreamSeeds
from inlearn.models.leaves import Dropout
from inlearn.training.config import SGD, AdamW, Training
from inlearn.training.parameters import Parallel, Sharded, check_same, parameters_of
from inlearn.training.ranks import ALONE, Ranks, share_of
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


class Trainer:
    """A model, its optimiser, and the progress: `update` makes one step of them.

    With `ranks` of several processes each computes its share of every batch; `parallel` says how they hold the
    parameters. `together` gives, for each phase, how many consecutive rows share something and are never parted.
    """

    def __init__(
        self,
        model: nn.Module,
        training: Training,
        seeds: StreamSeeds,
        device: torch.device,
        precision: str,
        losses_kept: int,
        together: Sequence[int] = (1,),
        parallel: Parallel = "none",
        ranks: Ranks = ALONE,
    ):
        self.model, self.training, self.seeds, self.device = model, training, seeds, device
        self.together, self.ranks = together, ranks
        self.parameters = parameters_of(model, precision, parallel, ranks, device)
        self.drops_out = any(isinstance(leaf, Dropout) and leaf.p > 0 for leaf in model.modules())
        self.optimiser = self._new_optimiser()
        self.progress = Progress()
        self.gradient_norm = torch.zeros((), device=device)  # of the last update, before clipping
        # Losses since the last training line stay on the device, so that no step waits for a number.
        self.losses_kept = losses_kept
        self.losses = torch.zeros(losses_kept, device=device, dtype=next(model.parameters()).dtype)
        self.pending = 0

    def _new_optimiser(self) -> torch.optim.Optimizer:
        asked, values = self.training.optimiser, self.parameters.trained
        fused = self.device.type in ("cpu", "cuda")
        if isinstance(asked, SGD):
            return torch.optim.SGD(
                values,
                self.training.rate,
                asked.momentum,
                weight_decay=asked.weight_decay,
                nesterov=asked.nesterov,
                fused=fused and not isinstance(self.parameters, Sharded),  # torch's kernel for it knows no shards
            )
        kind = torch.optim.AdamW if isinstance(asked, AdamW) else torch.optim.Adam
        return kind(values, self.training.rate, asked.betas, asked.eps, asked.weight_decay, fused=fused)

    # ------------------------------------------------------------ one step

    def update(self, task: Task) -> None:
        """One optimiser step on the batch that belongs to this step; its mean loss is appended to `losses`."""
        step, parameters = self.progress.step, self.parameters
        if not self.model.training:  # walking the modules costs a quarter of a millisecond
            self.model.train()
        together = self.together[self.progress.phase]
        (start, rows), spans = share_of(self.training.batch, together, self.ranks, self.training.accumulate)
        batch = task.sample(Address(self.seeds, "data", step), rows, start).to(self.device)
        dropout = Address(self.seeds, "dropout", step) if self.drops_out else None
        # Gradients and losses are averaged over processes, so each divides by the mean of their weights.
        total = self.ranks.mean(batch.weights.sum())
        parameters.zero()
        mean_loss = self.losses.new_zeros(())
        for first, count in spans:
            part = batch if len(spans) == 1 else batch.part(first, count)
            with contextlib.nullcontext() if first == spans[-1][0] else parameters.accumulating():
                loss = parameters.loss(task.interface.outputs, part, dropout, start + first) / total
                loss.backward()
            mean_loss += loss.detach()
        self.gradient_norm = parameters.norm()
        if self.training.clip is not None:
            # The factor torch's clip_grad_norm_ uses.
            parameters.scale((self.training.clip / (self.gradient_norm + 1e-6)).clamp(max=1.0))
        self.optimiser.param_groups[0]["lr"] = self.rate()
        self.optimiser.step()
        self.losses[self.pending] = self.ranks.mean(mean_loss)
        self.pending += 1
        self.progress.step += 1

    @property
    def count(self) -> int:
        """How many parameters the model has, in all processes together."""
        return sum(math.prod(shape) for _, shape in self.parameters.layout)

    def rate(self) -> float:
        return self.training.rate * rate_factor(self.training.schedule, self.progress.step, self.training.steps)

    # ------------------------------------------------------------ losses on the way

    def check_losses(self) -> Tensor:
        """The pending losses (n,); raises `Diverged` with the exact step if one is not finite."""
        losses = self.losses[: self.pending].cpu()
        if not (finite := torch.isfinite(losses)).all():
            bad = int((~finite).nonzero()[0])
            step = self.progress.step - self.pending + bad + 1
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
        self.pending = 0
        return mean

    # ------------------------------------------------------------ phases

    def begin_phase(self, index: int, fresh_optimiser: bool) -> None:
        self.progress.phase, self.progress.phase_start = index, self.progress.step
        if fresh_optimiser:
            self.optimiser = self._new_optimiser()

    # ------------------------------------------------------------ what a checkpoint holds

    def weights(self) -> dict[str, Tensor]:
        """Whole tensors by name; with several processes, for the first, while all of them call."""
        return self.parameters.weights()

    def optimiser_state(self) -> dict[str, Tensor]:
        moments = {f"moments.{name}": value for name, value in self.parameters.moments(self.optimiser).items()}
        return {**moments, "losses": self.losses[: self.pending]}

    def load(self, weights: Mapping[str, Tensor], optimiser: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Go on where a checkpoint stopped. Names and shapes must be the model's own."""
        check_same(dict(self.parameters.layout), weights)
        self.parameters.place(weights)
        moments = {k.removeprefix("moments."): v for k, v in optimiser.items() if k.startswith("moments.")}
        if moments:
            self.parameters.place_moments(self.optimiser, moments)
        # The cadence of training lines may have changed since: there must be room for what waits and what comes.
        waiting = optimiser["losses"].to(self.device)
        self.pending = len(waiting)
        self.losses = torch.cat((waiting, waiting.new_zeros(self.losses_kept)))
        self.progress = Progress(**progress)
