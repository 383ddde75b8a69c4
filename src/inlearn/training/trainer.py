"""What one update does, and everything that a checkpoint must hold to go on exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from inlearn.core.contract import Batch, Task
from inlearn.core.device import autocast
from inlearn.core.draws import Address, StreamSeeds
from inlearn.models.flat import FlatParameters
from inlearn.models.forward import outputs_at_scored
from inlearn.models.leaves import Dropout
from inlearn.training.config import SGD, AdamW, Training
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
    """A model, its optimiser over one flat buffer, and the progress: `update` makes one step of them."""

    def __init__(
        self,
        model: nn.Module,
        training: Training,
        seeds: StreamSeeds,
        device: torch.device,
        precision: str,
        losses_kept: int,
    ):
        self.model, self.training, self.seeds, self.device, self.precision = model, training, seeds, device, precision
        self.flat = FlatParameters(model)
        self.drops_out = any(isinstance(leaf, Dropout) and leaf.p > 0 for leaf in model.modules())
        self.optimiser = self._new_optimiser()
        self.progress = Progress()
        self.gradient_norm = torch.zeros((), device=device)  # of the last update, before clipping
        # Losses since the last training line stay on the device, so that no step waits for a number.
        self.losses_kept = losses_kept
        self.losses = torch.zeros(losses_kept, device=device, dtype=self.flat.values.dtype)
        self.pending = 0

    def _new_optimiser(self) -> torch.optim.Optimizer:
        asked, values = self.training.optimiser, [self.flat.values]
        fused = self.device.type in ("cpu", "cuda")
        if isinstance(asked, SGD):
            return torch.optim.SGD(
                values,
                self.training.rate,
                asked.momentum,
                weight_decay=asked.weight_decay,
                nesterov=asked.nesterov,
                fused=fused,
            )
        kind = torch.optim.AdamW if isinstance(asked, AdamW) else torch.optim.Adam
        return kind(values, self.training.rate, asked.betas, asked.eps, asked.weight_decay, fused=fused)

    # ------------------------------------------------------------ one step

    def update(self, task: Task) -> None:
        """One optimiser step on the batch that belongs to this step; its mean loss is appended to `losses`."""
        step, parts = self.progress.step, self.training.accumulate
        if not self.model.training:  # walking the modules costs a quarter of a millisecond
            self.model.train()
        batch = task.sample(Address(self.seeds, "data", step), self.training.batch).to(self.device)
        total = batch.weights.sum()
        self.flat.zero()
        mean_loss = self.losses.new_zeros(())
        rows = batch.rows // parts
        for first in range(0, batch.rows, rows):
            part = batch if parts == 1 else batch.part(first, rows)
            loss = self._loss(task, part, first) / total
            loss.backward()
            mean_loss += loss.detach()
        self.gradient_norm = torch.linalg.vector_norm(self.flat.gradients)
        if self.training.clip is not None:
            # The factor torch's clip_grad_norm_ uses, on the one buffer that holds every gradient.
            self.flat.gradients.mul_((self.training.clip / (self.gradient_norm + 1e-6)).clamp(max=1.0))
        self.optimiser.param_groups[0]["lr"] = self.rate()
        self.optimiser.step()
        self.losses[self.pending] = mean_loss
        self.pending += 1
        self.progress.step += 1

    def _loss(self, task: Task, batch: Batch, first: int) -> Tensor:
        """The weighted sum of losses at scored positions; dividing by the whole batch's weight makes it the mean.

        `first` is the row of the whole batch that `batch` begins with: its rows drop out as they do there.
        """
        space = task.interface.outputs
        dropout = Address(self.seeds, "dropout", self.progress.step) if self.drops_out else None
        with autocast(self.device, self.precision):
            outputs = outputs_at_scored(self.model, batch, dropout, first)
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        losses = space.loss(space.prediction(outputs), batch.at_scored(batch.targets))
        return (losses * batch.at_scored(batch.weights)).sum()

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
        if not torch.isfinite(self.flat.values).all():
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
        return {name: value.detach() for name, value in self.model.named_parameters()}

    def optimiser_state(self) -> dict[str, Tensor]:
        moments = self.optimiser.state.get(self.flat.values, {})
        kept = {f"moments.{name}": torch.as_tensor(value) for name, value in moments.items() if value is not None}
        return {**kept, "losses": self.losses[: self.pending]}

    def load(self, weights: Mapping[str, Tensor], optimiser: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Go on where a checkpoint stopped. Names and shapes must be the model's own."""
        load_weights(self.model, weights)
        state = {}
        for name, value in optimiser.items():
            if name.startswith("moments."):
                # torch keeps Adam's step count where the fused kernel wants it: beside the parameters.
                state[name.removeprefix("moments.")] = value.to(self.device).clone()
        if state:
            self.optimiser.state[self.flat.values] = state
        # The cadence of training lines may have changed since: there must be room for what waits and what comes.
        waiting = optimiser["losses"].to(self.device)
        self.pending = len(waiting)
        self.losses = torch.cat((waiting, waiting.new_zeros(self.losses_kept)))
        self.progress = Progress(**progress)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy `weights` into the model's own memory (views of a flat buffer stay views)."""
    own = dict(model.named_parameters())
    if own.keys() != weights.keys():
        raise ValueError(f"parameters differ: {sorted(own.keys() ^ weights.keys())}")
    with torch.no_grad():
        for name, value in own.items():
            if value.shape != weights[name].shape:
                raise ValueError(f"{name} has shape {tuple(weights[name].shape)}; expected {tuple(value.shape)}")
            value.copy_(weights[name])
