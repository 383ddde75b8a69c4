"""One model and what one update of it does, in one process or several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from inlearn.core.batch import Batch
from inlearn.core.contract import Task
from inlearn.core.draws import Address, StreamSeeds
from inlearn.core.spaces import Space
from inlearn.models.leaves import drops_out
from inlearn.training.compiled import Compiled
from inlearn.training.config import SGD, Training
from inlearn.training.learner import Learner
from inlearn.training.optimisers import group, optimiser
from inlearn.training.parameters import Parallel, Sharded, parameters_of
from inlearn.training.ranks import ALONE, Ranks, Span, share_of


class Trainer(Learner):
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
        super().__init__(training, seeds)
        self.model, self.device = model, device
        self.together, self.ranks = together, ranks
        self.parameters = parameters_of(model, precision, parallel, ranks, device)
        self.drops_out = drops_out(model)
        self.forget_moments()
        self._norm = torch.zeros((), device=device)
        self.losses_kept = losses_kept
        self.losses = torch.zeros(losses_kept, device=device, dtype=next(model.parameters()).dtype)
        self.pending = 0
        self.compiled: Compiled | None = None

    def compile(self, gave_up: Callable[[str], None]) -> None:
        """Make forward and backward pass by one compiled function from now on; `gave_up` hears why, if not.

        For one process that holds the whole model, and batches that are not cut.
        """
        self.compiled = Compiled(self.model, self.parameters.flat, gave_up)

    def forget_moments(self) -> None:
        asked = self.training.optimiser
        fused = self.device.type in ("cpu", "cuda")
        if isinstance(asked, SGD) and isinstance(self.parameters, Sharded):
            fused = False  # torch's kernel for it knows no shards
        self.optimiser = optimiser(asked.kind, [group(asked, self.parameters.trained, self.training.rate)], fused)

    # ------------------------------------------------------------ one step

    def update(self, task: Task) -> None:
        """One optimiser step on the batch that belongs to this step; its mean loss joins the waiting ones."""
        step = self.progress.step
        (start, rows), _ = self._share()
        batch = task.sample(Address(self.seeds, "data", step), rows, start).to(self.device)
        dropout = Address(self.seeds, "dropout", step) if self.drops_out else None
        loss = self.gradients(task.interface.outputs, batch, dropout)
        self.rate_used = self.optimiser.param_groups[0]["lr"] = self.rate()
        self.optimiser.step()
        self.losses[self.pending] = loss
        self.advance(1)

    def _share(self) -> tuple[Span, list[Span]]:
        together = self.together[self.progress.phase]
        return share_of(self.training.batch, together, self.ranks, self.training.accumulate)

    def gradients(self, space: Space, batch: Batch, dropout: Address | None) -> Tensor:
        """Clipped gradients of this process's share of a batch, and the whole batch's mean loss. Waits for nothing."""
        parameters = self.parameters
        if not self.model.training:  # walking the modules costs a quarter of a millisecond
            self.model.train()
        mean_loss = self.compiled.gradients(space, batch) if self.compiled else None
        if mean_loss is None:
            mean_loss = self._by_autograd(space, batch, dropout)
        self._norm = parameters.norm()
        if self.training.clip is not None:
            # The factor torch's clip_grad_norm_ uses.
            parameters.scale((self.training.clip / (self._norm + 1e-6)).clamp(max=1.0))
        return self.ranks.mean(mean_loss)

    def _by_autograd(self, space: Space, batch: Batch, dropout: Address | None) -> Tensor:
        """Gradients and mean loss, in as many parts as asked for."""
        parameters, ((start, _), spans) = self.parameters, self._share()
        # Gradients and losses are averaged over processes, so each divides by the mean of their weights.
        total = self.ranks.mean(batch.weights.sum())
        parameters.zero()
        mean_loss = self.losses.new_zeros(())
        for first, count in spans:
            part = batch if len(spans) == 1 else batch.part(first, count)
            with contextlib.nullcontext() if first == spans[-1][0] else parameters.accumulating():
                loss = parameters.loss(space, part, dropout, start + first) / total
                loss.backward()
            mean_loss += loss.detach()
        return mean_loss

    def advance(self, count: int) -> None:
        """`count` updates were made, and their losses kept."""
        self.pending += count
        self.progress.step += count

    # ------------------------------------------------------------ what the loop asks for

    @property
    def gradient_norm(self) -> Tensor:
        return self._norm

    def waiting_losses(self) -> Tensor:
        return self.losses[: self.pending]

    def keep_losses(self, waiting: Tensor | None) -> None:
        if waiting is not None:
            # The cadence of training lines may have changed since: there must be room for what waits and what comes.
            waiting = waiting.to(self.device)
            self.losses = torch.cat((waiting, waiting.new_zeros(self.losses_kept)))
        self.pending = 0 if waiting is None else len(waiting)
