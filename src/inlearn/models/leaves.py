"""The layers that hold parameters. Each takes them solo, or stacked with a leading member axis.

They are torch's own layers, so a solo model is an ordinary PyTorch model. A stacked leaf gives member e what the
solo leaf would: inputs (E, ..., features) meet weights (E, out, in) in one batched product. Architectures are
written once, with `...` for whatever leads, and never mention members.

New leaves hold NaN until `initialise` draws their weights, so that forgetting it is loud and building a model
touches no global generator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlearn.core.draws import Address, Addresses, uniform

M = TypeVar("M", bound=nn.Module)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in) times weight (out, in), or x (E, ..., in) times weight (E, out, in) member by member."""
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    if weight.shape[1] == 1:
        # A product with one column takes another kernel for one member than for several, with other last bits.
        bias = bias if bias is None else F.pad(bias, (0, 1))
        return linear(x, F.pad(weight, (0, 0, 0, 1)), bias)[..., :1]
    if weight.shape[2] == 1:
        x, weight = F.pad(x, (0, 1)), F.pad(weight, (0, 1))
    rows = x.reshape(weight.shape[0], x.shape[1:-1].numel(), weight.shape[2])
    product = torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias[:, None], rows, weight.mT)
    return product.view(*x.shape[:-1], weight.shape[1])


def beside(parameter: Tensor, solo_dims: int, x: Tensor) -> Tensor:
    """A parameter of `solo_dims` axes, shaped to broadcast against x: members against members, never against rows.

    Raw parameters must come through here: a stacked (E, C) broadcasts silently against x (E, N, C) where E equals N.
    """
    if parameter.dim() == solo_dims:
        return parameter
    gap = x.dim() - 1 - solo_dims
    return parameter.reshape(parameter.shape[0], *[1] * gap, *parameter.shape[1:])


def anywhere(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """An elementwise function whose bits do not depend on where in its tensor a number stands, hence on company.

    torch's gelu, silu and sigmoid on a CPU fill vector registers, and compute the numbers left over at the end, or
    strided ones (`linear` with one column or row), by another formula, an ulp apart. Here there are none of these.
    """

    def same(x: Tensor) -> Tensor:
        left_over = x.numel() % _AT_ONCE
        if x.device.type != "cpu" or (not left_over and x.shape[-1] > 1):
            return function(x)
        return function(F.pad(x.flatten(), (0, _AT_ONCE - left_over)))[: x.numel()].view(x.shape)

    return same


_AT_ONCE = 64  # two of the widest registers full of bfloat16


class Linear(nn.Linear):
    """weight (out, in) | (E, out, in), bias (out,) | (E, out)."""

    def reset_parameters(self) -> None:
        _unset(self)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    """weight (symbols, width) | (E, symbols, width); ids (...) | (E, ...) to (..., width)."""

    def reset_parameters(self) -> None:
        _unset(self)

    def forward(self, ids: Tensor) -> Tensor:
        if self.weight.dim() == 2:
            return F.embedding(ids, self.weight)
        members, symbols, width = self.weight.shape
        offset = torch.arange(members, device=ids.device) * symbols
        return F.embedding(ids + offset.view(-1, *[1] * (ids.dim() - 1)), self.weight.reshape(-1, width))


class Positions(nn.Module):
    """A learned table (length, width) | (E, length, width), one row a position."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((length, width), float("nan")))

    @property
    def length(self) -> int:
        return self.weight.shape[-2]

    def forward(self, first: int, steps: int, x: Tensor) -> Tensor:
        """Rows first..first+steps-1, to be added to x (..., steps, width)."""
        return beside(self.weight[..., first : first + steps, :], 2, x)


class LayerNorm(nn.LayerNorm):
    """weight and bias (C,) | (E, C)."""

    def reset_parameters(self) -> None:
        _unset(self)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 1:
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        # With ones and zeros, for torch's CPU kernel is half as fast without a weight (300 us against 169).
        plain = F.layer_norm(x, self.normalized_shape, *_unit(x.shape[-1], x.dtype, x.device), self.eps)
        return torch.addcmul(beside(self.bias, 1, x), plain, beside(self.weight, 1, x))


@lru_cache(maxsize=16)
def _unit(width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        return torch.ones(width, dtype=dtype, device=device), torch.zeros(width, dtype=dtype, device=device)


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x²) + eps) * weight, weight (C,) | (E, C) (Zhang & Sennrich 2019)."""

    def reset_parameters(self) -> None:
        _unset(self)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 1:
            return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)
        return F.rms_norm(x, self.normalized_shape, None, self.eps) * beside(self.weight, 1, x)


def _unset(leaf: nn.Module) -> None:
    for parameter in leaf.parameters(recurse=False):
        nn.init.constant_(parameter, float("nan"))


# ---------------------------------------------------------------- dropout


class Dropout(nn.Module):
    """Dropout whose mask is a function of (address, this leaf's name, positions before, row): see `set_dropout`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.name = ""
        self.at: Address | Addresses | None = None  # of a solo model, or of all members
        self.first_row = 0

    @property
    def active(self) -> bool:
        return self.training and self.p > 0

    def forward(self, x: Tensor, before: int = 0) -> Tensor:
        """x (N, ...) | (E, N, ...), `before` positions into its sequence."""
        if not self.active:
            return x
        if self.at is None:
            raise RuntimeError("dropout is active but has no address; call set_dropout(model, address) before a step")
        key = self.at.key(self.name, before, device=x.device)
        rows, shape = x.shape[key.dim()], x.shape[key.dim() + 1 :]
        kept = uniform(key, rows, tuple(shape), self.first_row) >= self.p
        return x * kept.to(x.dtype).mul_(1 / (1 - self.p))


def set_dropout(model: nn.Module, at: Address | Addresses | None, first_row: int = 0) -> None:
    """Where in the `dropout` stream the next forward pass draws its masks, and which row of the batch is its first.

    A slice of a batch gets the masks its rows have in the whole batch. A stack takes its members' addresses, and a
    member's masks are those it has alone. None takes the address away.
    """
    leaves = [(name, leaf) for name, leaf in model.named_modules() if isinstance(leaf, Dropout)]
    if not any(leaf.p for _, leaf in leaves):
        return
    given = None if at is None else len(at.seeds) if isinstance(at, Addresses) else "one"
    if given is not None and given != (members(model) or "one"):
        raise ValueError(f"{given} dropout addresses for {members(model) or 'one'} members")
    for name, leaf in leaves:
        leaf.name, leaf.at, leaf.first_row = name, at, first_row


def drops_out(model: nn.Module) -> bool:
    """Whether any leaf drops something, so that every training step needs an address for it."""
    return any(isinstance(leaf, Dropout) and leaf.p > 0 for leaf in model.modules())


# ---------------------------------------------------------------- stacks


def stack(models: Sequence[M]) -> M:
    """One model whose every parameter has a leading member axis, from solo models of one shape. Ties stay ties.

    Raises ValueError, naming the parameter, where shapes differ.
    """
    stacked = copy.deepcopy(models[0])
    solo = [dict(model.named_parameters()) for model in models]
    with torch.no_grad():
        for name, parameter in stacked.named_parameters():
            shapes = {tuple(own[name].shape) if name in own else None for own in solo}
            if len(shapes) > 1 or any(own.keys() != solo[0].keys() for own in solo):
                raise ValueError(f"members of a stack need parameters of one shape; {name} has {shapes}")
            parameter.grad = None
            parameter.data = torch.stack([own[name].detach() for own in solo])
    stacked.members = len(models)
    return stacked


def members(model: nn.Module) -> int | None:
    """How many members a stack has; None for a solo model."""
    return getattr(model, "members", None)
