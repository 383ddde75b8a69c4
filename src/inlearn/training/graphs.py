"""Updates made of operations on the device alone, so that a CUDA graph can repeat them without the host.

Nothing in such an update waits for the host or makes it wait. Where every member stands, where its loss goes and which
rates are next is counted on the device; batches and dropout masks are drawn there, at these counters; rates lie in a
table that the host fills for thousands of updates. Shapes never change.

The operations are those of the ordinary update (`gradients`, then the fused optimiser), so on a CPU, where they run one
by one, the bits are the same. On CUDA torch's fused optimisers take a rate that is on the device in float32.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Task
from inlearn.core.draws import Address, Addresses
from inlearn.core.spaces import Space
from inlearn.training.feeds import DeviceFeed, HostFeed, Unsteady, why_not_on_device
from inlearn.training.learner import Learner
from inlearn.training.stack import Stack
from inlearn.training.trainer import Trainer
from inlearn.training.watches import Read

WARM = 2  # updates before a capture: the first makes moments and constants, the second what only then is asked for
TABLE = 4096  # updates for which rates are kept on the device
BURST = 1024  # updates at most between two looks at the clock
PACE = 0.2  # seconds that a burst should take: so long an interrupt may wait


class Updated(Protocol):
    """What one update changes: a model alone, or a stack of E. Leading shape of steps and losses: (), or (E,)."""

    device: torch.device
    optimiser: torch.optim.Optimizer
    members: Sequence[Learner]
    groups: Sequence[Sequence[Learner]]  # of members with one rate, as the optimiser's
    drops_out: bool

    @property
    def space(self) -> Space: ...
    @property
    def task(self) -> Task | None:
        """The task that draws the whole batch at `addresses`; None where there is none."""
        ...

    @property
    def rows(self) -> int: ...
    @property
    def ring(self) -> tuple[Tensor, int]:
        """(room, *lead) waiting losses, and the place of the next."""
        ...

    def addresses(self, stream: str, step: Tensor) -> Address | Addresses: ...
    def batch(self) -> Batch:
        """The next update's, as the host draws it."""
        ...

    def gradients(self, space: Space, batch: Batch, dropout: Address | Addresses | None) -> Tensor: ...
    def advance(self, count: int) -> None: ...
    def compile(self, gave_up: Callable[[str], None]) -> None: ...
    def update(self) -> None:
        """The ordinary one."""
        ...


class Alone:
    """A model that one process trains alone, as `Updated`. `tasks` has one training task a phase."""

    def __init__(self, trainer: Trainer, tasks: Sequence[Task]):
        self.trainer, self.tasks = trainer, tasks
        self.device, self.drops_out, self.rows = trainer.device, trainer.drops_out, trainer.training.batch
        self.members, self.groups = (trainer,), ((trainer,),)
        self.gradients, self.advance, self.compile = trainer.gradients, trainer.advance, trainer.compile

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        return self.trainer.optimiser

    @property
    def task(self) -> Task:
        return self.tasks[self.trainer.progress.phase]

    @property
    def space(self) -> Space:
        return self.task.interface.outputs

    @property
    def ring(self) -> tuple[Tensor, int]:
        return self.trainer.losses, self.trainer.pending

    def addresses(self, stream: str, step: Tensor) -> Address:
        return Address(self.trainer.seeds, stream, step)

    def batch(self) -> Batch:
        return self.task.sample(Address(self.trainer.seeds, "data", self.trainer.progress.step), self.rows)

    def update(self) -> None:
        self.trainer.update(self.task)


class Together:
    """A stack, as `Updated`."""

    def __init__(self, stack: Stack):
        self.stack = stack
        self.device, self.rows = stack.device, stack.members[0].training.batch
        self.gradients, self.advance, self.update = stack.gradients, stack.advance, stack.update
        self.addresses, self.batch, self.compile = stack.addresses, stack.batch, stack.compile

    members = property(lambda self: self.stack.members)
    groups = property(lambda self: self.stack.groups)
    optimiser = property(lambda self: self.stack.optimiser)
    drops_out = property(lambda self: self.stack.drops_out)
    task = property(lambda self: self.stack.feed)
    space = property(lambda self: self.stack.members[0].task.interface.outputs)

    @property
    def ring(self) -> tuple[Tensor, int]:
        return self.stack.history, self.stack.tick % len(self.stack.history)


class DeviceUpdates:
    """Makes the updates of `one`: on CUDA as replays of a graph of the whole update, elsewhere operation by operation.

    `say` hears once of every phase whose batches the host has to draw, and why. Where no graph can be made, `gave_up`
    hears the reason, and the ordinary updates go on.
    """

    def __init__(self, one: Updated, say: Callable[[str], None], gave_up: Callable[[str], None]):
        self.one, self.say, self.gave_up = one, say, gave_up
        self.device = one.device
        self.captures = self.device.type == "cuda"
        self.ordinary = False  # since it gave up
        self._said: set[str] = set()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._made_for: tuple[object, ...] | None = None
        self._burst, self._last = 8, None
        self._side = torch.cuda.Stream(self.device) if self.captures else None

    def advance(self, most: int) -> None:
        """Make up to `most` updates: as many as take a fraction of a second, at least one."""
        if self.ordinary:
            return self.one.update()
        count, began = min(most, self._burst), time.monotonic()
        try:
            with torch.cuda.device(self.device) if self.captures else contextlib.nullcontext():
                self._catch_up()
                self._prepare(count)
                self._make(count)
        except Unsteady as error:
            return self._give_up(str(error))
        took = time.monotonic() - began
        if took > PACE:
            self._burst = max(1, self._burst // 2)
        elif took < PACE / 2 and count == self._burst:
            self._burst = min(BURST, 2 * self._burst)
        return None

    def _catch_up(self) -> None:
        """Wait for the last burst but one: the host runs one ahead, so that the clock says what the device takes."""
        if self.captures:
            if self._last is not None:
                self._last.synchronize()
            self._last = torch.cuda.Event()

    def _make(self, count: int) -> None:
        while count:
            made = 1
            if isinstance(self._feed, HostFeed):
                self._feed.fill(self.one.batch())
                self._once()
            elif self._graph is None:
                self._once()
            else:
                made = count
                for _ in range(count):
                    self._graph.replay()
            self._count(made)
            count -= made
            if self._graph is None and self.captures and self._warm >= WARM:
                self._capture()
        if self._last is not None:
            self._last.record()

    def _count(self, count: int) -> None:
        """Let the host know what the device has counted."""
        for members in self.one.groups:
            rate = members[0].rate(count - 1)
            for member in members:
                member.rate_used = rate
        self.one.advance(count)
        room = len(self.one.ring[0])
        steps, slot = self._stands
        self._stands = [step + count for step in steps], (slot + count) % room
        self._row_at += count

    # ------------------------------------------------------------ one update

    def _once(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        elif self.captures:
            with self._beside():
                self._step()
            self._warm += 1
        else:
            self._step()

    def _step(self) -> None:
        """The whole update. Every operation is on the device, and none has to be waited for."""
        one = self.one
        step = self._steps.clone()  # an address may be kept by who is given it; the counter goes on
        batch = self._feed.batch(one.addresses("data", step))
        dropout = one.addresses("dropout", step) if one.drops_out else None
        losses = one.gradients(self._space, batch, dropout)
        self._rates.copy_(self._table.index_select(0, self._row)[0])
        one.optimiser.step()
        self._ring.index_copy_(0, self._slot, losses[None])
        self._steps.add_(1)
        self._row.add_(1)
        self._slot.add_(1).remainder_(len(self._ring))

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        """On the stream of captures, in order with the others."""
        here = torch.cuda.current_stream(self.device)
        self._side.wait_stream(here)
        with torch.cuda.stream(self._side):
            yield
        here.wait_stream(self._side)

    def _capture(self) -> None:
        """Record one update without making it."""
        graph, read = torch.cuda.CUDAGraph(), Read()
        try:
            self._let_capture(True)
            with torch.cuda.graph(graph, stream=self._side), read:
                self._step()
        except Exception as error:  # torch raises many kinds, one for every thing that cannot be captured
            raise Unsteady(str(error).partition("\n")[0]) from error
        finally:
            self._let_capture(False)
        self._graph, self._constants, self._memory = graph, read.held, self._addresses_in_memory()

    def _let_capture(self, allowed: bool) -> None:
        """What Adam wants to be told; otherwise it warns of every update that is not captured."""
        for settings in self.one.optimiser.param_groups:
            if "capturable" in settings:
                settings["capturable"] = allowed

    def _give_up(self, reason: str) -> None:
        self.ordinary, self._graph, self._constants = True, None, {}
        self.gave_up(reason)
        self.one.update()

    # ------------------------------------------------------------ before a burst

    def _prepare(self, count: int) -> None:
        one = self.one
        ring, slot = one.ring
        made_for = one.optimiser, ring, [member.progress.phase for member in one.members]
        before = self._made_for
        if (
            before is None
            or any(a is not b for a, b in zip(before[:2], made_for[:2], strict=True))
            or (before[2] != made_for[2])
        ):
            self._begin()
            self._made_for = made_for
        elif self._graph is not None and self._memory != self._addresses_in_memory():
            self._drop()  # moments were forgotten, or taken from a checkpoint
        steps = [member.progress.step for member in one.members]
        if self._stands[0] != steps:
            self._steps.copy_(torch.tensor(steps).view(self._steps.shape))
            self._row_at = TABLE
        if self._stands[1] != slot:
            self._slot.fill_(slot)
        self._stands = steps, slot
        if self._row_at + count > TABLE:
            self._fill_table()

    def _begin(self) -> None:
        """Counters, rates and feed for the members, phases and optimiser there are now."""
        one, device = self.one, self.device
        self._drop()
        self._space, (self._ring, _) = one.space, one.ring
        lead = self._ring.shape[1:]
        self._steps = torch.zeros(lead, dtype=torch.int64, device=device)
        self._slot, self._row = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self._stands: tuple[list[int], int] = ([-1] * len(one.members), 0)
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        self._table = torch.zeros(TABLE, len(one.groups), dtype=dtype, device=device)
        self._rates = torch.zeros(len(one.groups), dtype=dtype, device=device)
        for settings, rate in zip(one.optimiser.param_groups, self._rates, strict=True):
            settings["lr"] = rate
        drawn = one.batch()
        steps = torch.tensor([member.progress.step for member in one.members], device=device).view(lead)
        if why := why_not_on_device(one.task, one.addresses("data", steps), one.rows, drawn, device):
            if why not in self._said:
                self.say(f"batches are drawn on the host: {why}")
            self._said.add(why)
            self._feed = HostFeed(drawn, device)
        else:
            self._feed = DeviceFeed(one.task, one.rows)

    def _drop(self) -> None:
        self._graph, self._warm, self._constants, self._memory = None, 0, {}, ()

    def _addresses_in_memory(self) -> tuple[int, ...]:
        """Of the moments, which nothing but the graph may have to follow."""
        optimiser = self.one.optimiser
        own = [p for settings in optimiser.param_groups for p in settings["params"]]
        return tuple(v.data_ptr() for p in own for v in optimiser.state[p].values() if isinstance(v, Tensor))

    def _fill_table(self) -> None:
        rates = [[members[0].rate(ahead) for members in self.one.groups] for ahead in range(TABLE)]
        self._table.copy_(torch.tensor(rates, dtype=self._table.dtype))
        self._row.zero_()
        self._row_at = 0
