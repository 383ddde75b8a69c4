"""Runs of one shape trained together: one forward pass, one backward, one optimiser for all (docs/architecture.md).

Shapes: E members of P parameters. Each member has its own weights (a row of one buffer), task, randomness, rate,
decay, clipping and progress, so that members may stand at different steps and one may leave while the others go on.
Every operation treats a member's numbers alike whatever stands beside them: at one thread, a member's bits do not
depend on its company. Where a loss stops being a number, that member alone is spoiled; it is found at its next line.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inlearn.core.batch import Batch
from inlearn.core.contract import Task
from inlearn.core.draws import Address, Addresses, StreamSeeds
from inlearn.core.spaces import Space
from inlearn.models.flat import FlatParameters
from inlearn.models.leaves import drops_out, stack
from inlearn.training.compiled import Compiled
from inlearn.training.config import Training
from inlearn.training.learner import Learner
from inlearn.training.optimisers import group, optimiser
from inlearn.training.parameters import Row, WeightedLoss


class Member(Learner):
    """One run of a stack. `model` is its own: in a stack, its parameters are views of the member's row.

    `tasks` has one training task a phase; `losses_kept` is how many losses may wait for a training line.
    """

    def __init__(
        self, model: nn.Module, training: Training, seeds: StreamSeeds, tasks: Sequence[Task], losses_kept: int
    ):
        super().__init__(training, seeds)
        self.model, self.tasks, self.losses_kept = model, tasks, losses_kept
        own = FlatParameters(model)  # until it joins a stack
        self.parameters = Row(model, own.values, own.layout)
        self._kept = torch.zeros(0)  # losses that waited already when this process began
        self._since = 0  # the stack's tick after which its losses wait

    def join(self, stack: Stack, place: int) -> None:
        """Be row `place` of `stack`."""
        self.stack, self.place = stack, place
        values = stack.flat.rows[place]
        for parameter, view in zip(self.model.parameters(), stack.flat.views(values), strict=True):
            parameter.data = view
        self.parameters, self.optimiser = Row(self.model, values, stack.flat.layout), stack.optimiser

    @property
    def task(self) -> Task:
        return self.tasks[self.progress.phase]

    @property
    def gradient_norm(self) -> Tensor:
        return self.stack.norms[self.place]

    def forget_moments(self) -> None:
        self.optimiser.state.pop(self.parameters.values, None)

    def waiting_losses(self) -> Tensor:
        return torch.cat((self._kept.to(self.stack.history), self.stack.losses_since(self._since, self.place)))

    def keep_losses(self, waiting: Tensor | None) -> None:
        self._kept = self._kept[:0] if waiting is None else waiting
        self._since = self.stack.tick


class MemberFault(Exception):
    """What went wrong, its cause, concerns one member alone: no member has been updated."""

    def __init__(self, member: Member):
        super().__init__()
        self.member = member


class Stack:
    """Members that are updated together. All have models of one shape on `device`, and batches of one shape."""

    def __init__(self, members: Sequence[Member], device: torch.device, precision: str):
        self.device, self.precision = device, precision
        self.tick = 0  # updates of this stack so far
        self.compiled: Compiled | None = None
        room = 1 + max(member.losses_kept for member in members)
        dtype = next(members[0].model.parameters()).dtype
        self._assemble(members, torch.zeros(room, len(members), device=device, dtype=dtype))

    def _assemble(self, members: Sequence[Member], history: Tensor) -> None:
        self.members = list(members)
        self.history = history  # (room, E) the losses of the last updates, a ring
        self.norms = torch.zeros(len(members), device=self.device, dtype=history.dtype)
        self.model = stack([member.model for member in members])
        self.flat = FlatParameters(self.model)
        self.loss = WeightedLoss(self.model, self.precision)
        self.drops_out = drops_out(self.model)
        self._seeds = tuple(member.seeds for member in members)
        clips = [float("inf") if (clip := member.training.clip) is None else clip for member in members]
        self._clips = (
            torch.tensor(clips, device=self.device, dtype=history.dtype) if min(clips) < float("inf") else None
        )
        self._feeds: dict[tuple[int, ...], Task | None] = {}
        self.compiled = self.compiled and Compiled(self.model, self.flat, self.compiled.gave_up)
        self.optimiser = self._new_optimiser()
        for place, member in enumerate(members):
            member.join(self, place)

    def _new_optimiser(self) -> torch.optim.Optimizer:
        """One group for members that have, and go on to have, the same settings and rate."""
        alike: dict[Any, list[int]] = defaultdict(list)
        for place, member in enumerate(self.members):
            asked = member.training
            key = asked.optimiser, asked.rate, asked.schedule, asked.steps, member.progress.step
            alike[key].append(place)
        self.groups = [[self.members[place] for place in places] for places in alike.values()]
        groups = [
            group(one.training.optimiser, [self.flat.rows[place] for place in places], one.training.rate)
            for (one, *_), places in zip(self.groups, alike.values(), strict=True)
        ]
        return optimiser(self.members[0].training.optimiser.kind, groups, self.device.type in ("cpu", "cuda"))

    def settle(self, staying: Sequence[Member]) -> None:
        """Go on with these members, from wherever each stands now: one may have left, or taken up a checkpoint."""
        moments = [member.parameters.moments(self.optimiser) for member in staying]
        self._assemble(staying, self.history[:, [member.place for member in staying]])
        for member, own in zip(staying, moments, strict=True):
            if own:
                member.parameters.place_moments(self.optimiser, own)

    def compile(self, gave_up: Callable[[str], None]) -> None:
        """Make forward and backward passes by one compiled function from now on; `gave_up` hears why, if not."""
        self.compiled = Compiled(self.model, self.flat, gave_up)

    # ------------------------------------------------------------ one step

    def update(self) -> None:
        """One optimiser step of every member, on the batch that belongs to its own step."""
        dropout = self._here("dropout") if self.drops_out else None
        batch = self.batch().to(self.device)
        losses = self.gradients(self.members[0].task.interface.outputs, batch, dropout)
        for members, settings in zip(self.groups, self.optimiser.param_groups, strict=True):
            settings["lr"] = members[0].rate()
            for member in members:
                member.rate_used = settings["lr"]
        self.optimiser.step()
        self.history[self.tick % len(self.history)] = losses
        self.advance(1)

    def gradients(self, space: Space, batch: Batch, dropout: Addresses | None) -> Tensor:
        """(E,) mean losses of the members' batches, whose gradients are left clipped. Waits for nothing."""
        if not self.model.training:
            self.model.train()
        losses = self.compiled.gradients(space, batch) if self.compiled else None
        if losses is None:
            self.flat.zero()
            losses = self.loss(space, batch, dropout, 0) / batch.weights.flatten(1).sum(1)
            losses.sum().backward()
        # One norm over a member's whole row: a sum over parts would depend on how many members there are.
        self.norms = torch.linalg.vector_norm(self.flat.gradients, dim=1)
        if self._clips is not None:
            factors = (self._clips / (self.norms + 1e-6)).clamp(max=1.0)
            self.flat.gradients.mul_(torch.where(self._clips.isinf(), 1.0, factors)[:, None])
        return losses.detach()

    def advance(self, count: int) -> None:
        """`count` updates were made, and their losses kept."""
        self.tick += count
        for member in self.members:
            member.progress.step += count

    def batch(self) -> Batch:
        """The batches of all members: drawn at once where their tasks can be combined, else one by one."""
        rows = self.members[0].training.batch
        if (feed := self.feed) is not None:
            return feed.sample(self._here("data"), rows)
        drawn = []
        for member in self.members:
            try:
                drawn.append(member.task.sample(Address(member.seeds, "data", member.progress.step), rows))
            except Exception as error:
                raise MemberFault(member) from error
        return Batch.stacked(drawn)

    @property
    def feed(self) -> Task | None:
        """The task that draws for all members at once, in the phases they are in; None where there is none."""
        phases = tuple(member.progress.phase for member in self.members)
        if phases not in self._feeds:
            self._feeds[phases] = _combined([member.task for member in self.members])
        return self._feeds[phases]

    def addresses(self, stream: str, step: Tensor) -> Addresses:
        """The members' places at their steps (E,)."""
        return Addresses(self._seeds, stream, step)

    def _here(self, stream: str) -> Addresses:
        return self.addresses(stream, torch.tensor([member.progress.step for member in self.members]))

    # ------------------------------------------------------------ what members read

    def losses_since(self, tick: int, place: int) -> Tensor:
        """(n,) the losses of one member in the updates after `tick`."""
        ticks = torch.arange(tick, self.tick, device=self.device) % len(self.history)
        return self.history[ticks, place]


def _combined(tasks: Sequence[Task]) -> Task | None:
    kind = type(tasks[0])
    if any(type(task) is not kind for task in tasks) or not hasattr(kind, "combined"):
        return None
    return kind.combined(tasks)
