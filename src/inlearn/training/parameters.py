"""A model's parameters as an optimiser sees them: whole in one process, replicated (DDP), or sharded (FSDP2).

All three give and take the same things, whole tensors by name and moments in one flat vector, so a checkpoint that
one of them wrote is continued by any other.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from inlearn.core.batch import Batch
from inlearn.core.device import autocast
from inlearn.core.draws import Address, Addresses
from inlearn.core.spaces import Space
from inlearn.models.flat import FlatParameters
from inlearn.models.forward import outputs_at_scored
from inlearn.training.ranks import Ranks

Parallel = Literal["none", "ddp", "fsdp"]


class WeightedLoss(nn.Module):
    """The weighted sum of losses at a batch's scored positions, as one forward pass (a shared prefix included).

    A scalar; of a stack (E,), a sum for each member.
    """

    def __init__(self, model: nn.Module, precision: str):
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, space: Space, batch: Batch, dropout: Address | Addresses | None, first: int) -> Tensor:
        """`first` is the row of the whole batch that `batch` begins with: its rows drop out as they do there."""
        if not batch.scored.numel():
            # Rows that ask nothing still take part in the exchange of gradients: one position, of weight zero.
            vars(batch)["scored"] = torch.zeros(1, dtype=torch.int64, device=batch.weights.device)
        with autocast(batch.weights.device, self.precision):
            outputs = outputs_at_scored(self.model, batch, dropout, first)
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        losses = space.loss(space.prediction(outputs), batch.at_scored(batch.targets))
        return (losses * batch.at_scored(batch.weights)).sum(-1)


class _TouchAll(torch.autograd.Function):
    """The loss itself, as a function of every parameter: those that it does not depend on get no gradient added.

    DDP waits until a gradient has arrived at every parameter, also where there is none, as this one says.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.count = len(parameters)
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, *[None] * ctx.count


class TouchingLoss(WeightedLoss):
    """The same numbers, from a graph that leads to every parameter."""

    def forward(self, space: Space, batch: Batch, dropout: Address | None, first: int) -> Tensor:
        return _TouchAll.apply(super().forward(space, batch, dropout, first), *self.model.parameters())


class Weights(Protocol):
    """What a checkpoint is made of: whole tensors by name, moments in flat vectors (P,) that `layout` orders.

    With several processes all of them must call `weights`, `row`, `moments` and `finite` together.
    """

    layout: list[tuple[str, tuple[int, ...]]]

    def finite(self) -> bool: ...
    def weights(self) -> dict[str, Tensor]:
        """Whole tensors by name."""
        ...

    def row(self) -> Tensor:
        """All weights (P,), by `layout`."""
        ...

    def place(self, weights: Mapping[str, Tensor]) -> None:
        """Copy whole tensors into the parameters of these names."""
        ...

    def moments(self, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
        """The optimiser's state by its own names: (P,) by `layout`, or a scalar."""
        ...

    def place_moments(self, optimiser: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None: ...


class Parameters(Weights, Protocol):
    """And what an update needs. `loss` is called as WeightedLoss; `trained` is what an optimiser is given.

    Between processes gradients are averaged; all of them must call `norm` together.
    """

    loss: nn.Module
    trained: list[nn.Parameter]

    def zero(self) -> None: ...
    def accumulating(self) -> contextlib.AbstractContextManager:
        """Around a micro-batch that is not the step's last."""
        ...

    def norm(self) -> Tensor:
        """The Euclidean norm of all gradients together, a scalar."""
        ...

    def scale(self, factor: Tensor) -> None:
        """Multiply every gradient."""
        ...


class Row:
    """`Weights` of a model whose parameters are views of one flat vector `values` (P,), which an optimiser updates."""

    def __init__(self, model: nn.Module, values: nn.Parameter, layout: list[tuple[str, tuple[int, ...]]]):
        self.model, self.values, self.layout = model, values, layout

    def finite(self) -> bool:
        return bool(torch.isfinite(self.values).all())

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.model.named_parameters()}

    def row(self) -> Tensor:
        return self.values.detach()

    def place(self, weights: Mapping[str, Tensor]) -> None:
        _copy(dict(self.model.named_parameters()), weights)

    def moments(self, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
        state = optimiser.state.get(self.values, {})
        return {name: torch.as_tensor(value) for name, value in state.items() if value is not None}

    def place_moments(self, optimiser: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
        # torch keeps Adam's step count where the fused kernel wants it: beside the parameters.
        optimiser.state[self.values] = {k: v.to(self.values.device).clone() for k, v in moments.items()}


class Whole(Row):
    """One process: all parameters in one buffer, so that a norm, a clip and an update are one call each."""

    def __init__(self, model: nn.Module, precision: str):
        self.flat = FlatParameters(model)
        super().__init__(model, self.flat.values, self.flat.layout)
        self.loss, self.trained = WeightedLoss(model, precision), [self.flat.values]

    def zero(self) -> None:
        self.flat.zero()

    def accumulating(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def norm(self) -> Tensor:
        return torch.linalg.vector_norm(self.flat.gradients)

    def scale(self, factor: Tensor) -> None:
        self.flat.gradients.mul_(factor)


class Replicated(Whole):
    """DistributedDataParallel: every process has all parameters; averaged gradients land in the same one buffer."""

    def __init__(self, model: nn.Module, precision: str):
        super().__init__(model, precision)
        # Not as views of DDP's buckets: gradients stay views of the flat buffer, and are copied back into it.
        loss = TouchingLoss(model, precision)
        self.loss = nn.parallel.DistributedDataParallel(loss, gradient_as_bucket_view=False)

    def accumulating(self) -> contextlib.AbstractContextManager:
        return self.loss.no_sync()


class Sharded:
    """FSDP2's fully_shard: every process has a part of each parameter (its rows, as `torch.chunk` cuts them).

    Every child of a ModuleList (a transformer's blocks) is gathered when it is needed and let go afterwards.
    """

    def __init__(self, model: nn.Module, precision: str, ranks: Ranks, device: torch.device):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        # A block returns views (keys, values), which only in-place writes could harm; models write none in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        mesh = init_device_mesh(device.type, (ranks.world,))
        blocks = [block for layers in model.modules() if isinstance(layers, nn.ModuleList) for block in layers]
        for module in (*blocks, model):
            # The root too: left gathered after an evaluation, it would be trained on in stale copies.
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
        self.model, self.loss, self.ranks = model, WeightedLoss(model, precision), ranks
        named = list(model.named_parameters())
        self.trained = [parameter for _, parameter in named]
        self.layout = [(name, tuple(parameter.shape)) for name, parameter in named]

    def zero(self) -> None:
        for parameter in self.trained:
            parameter.grad = None

    def accumulating(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()  # whole gradients that wait for the step's end would cost the memory saved

    def _gradients(self) -> list[Tensor]:
        """This process's parts. Zeros where the loss does not depend on a parameter: as in one flat buffer, it then
        has moments, and weight decay."""
        for parameter in self.trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter, requires_grad=False)
        return [p.grad.to_local() for p in self.trained]

    def norm(self) -> Tensor:
        squares = torch.stack(torch._foreach_norm(self._gradients())).square().sum()
        return (self.ranks.mean(squares) * self.ranks.world).sqrt()

    def scale(self, factor: Tensor) -> None:
        torch._foreach_mul_(self._gradients(), factor)

    def finite(self) -> bool:
        return not self.ranks.any(not all(bool(torch.isfinite(p.to_local()).all()) for p in self.trained))

    def _whole(self, sharded: Tensor) -> Tensor:
        """On the CPU of the first process; the others give their part and keep nothing."""
        whole = sharded.detach().full_tensor()
        return whole.cpu() if self.ranks.first else whole[:0]

    def weights(self) -> dict[str, Tensor]:
        return {name: self._whole(p) for (name, _), p in zip(self.layout, self.trained, strict=True)}

    def row(self) -> Tensor:
        return torch.cat([self._whole(p).flatten() for p in self.trained])

    def _part(self, whole: Tensor) -> Tensor:
        """This process's rows of a parameter."""
        parts = whole.chunk(self.ranks.world)
        return parts[self.ranks.rank] if self.ranks.rank < len(parts) else whole[:0]

    def place(self, weights: Mapping[str, Tensor]) -> None:
        own = dict(zip((name for name, _ in self.layout), self.trained, strict=True))
        with torch.no_grad():
            for name, value in weights.items():
                own[name].to_local().copy_(self._part(value))

    def moments(self, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
        states = [optimiser.state.get(p, {}) for p in self.trained]
        kept = {}
        for name, value in states[0].items():
            if value is None:
                continue
            scalar = not torch.is_tensor(value) or not value.dim()
            kept[name] = (
                torch.as_tensor(value) if scalar else torch.cat([self._whole(s[name]).flatten() for s in states])
            )
        return kept

    def place_moments(self, optimiser: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
        sizes = [parameter.numel() for parameter in self.trained]
        for name, value in moments.items():
            parts = value.split(sizes) if value.dim() else [value] * len(sizes)
            for parameter, whole in zip(self.trained, parts, strict=True):
                if not whole.dim():
                    own = whole.to(parameter.device).clone()
                else:
                    own = torch.zeros_like(parameter, requires_grad=False)
                    own.to_local().copy_(self._part(whole.view(parameter.shape)))
                optimiser.state[parameter][name] = own


def parameters_of(
    model: nn.Module, precision: str, parallel: Parallel, ranks: Ranks, device: torch.device
) -> Parameters:
    if parallel == "fsdp":
        return Sharded(model, precision, ranks, device)
    return Replicated(model, precision) if parallel == "ddp" else Whole(model, precision)


def check_same(shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless `weights` has exactly these names and shapes."""
    if shapes.keys() != weights.keys():
        raise ValueError(f"parameters differ: {sorted(shapes.keys() ^ weights.keys())}")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ValueError(f"{name} has shape {tuple(weights[name].shape)}; expected {tuple(shape)}")


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy all of a model's `weights` into its own memory."""
    check_same({name: tuple(value.shape) for name, value in model.named_parameters()}, weights)
    _copy(dict(model.named_parameters()), weights)


@torch.no_grad()
def _copy(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """In place: views of a flat buffer stay views."""
    for name, value in weights.items():
        own[name].copy_(value)
