"""Initial weights, addressed by parameter name: another layer, width or head elsewhere moves no other parameter."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from inlearn.core import draws
from inlearn.core.draws import Address, StreamSeeds
from inlearn.models.leaves import Embedding, LayerNorm, Linear, Positions, RMSNorm

Scheme = Literal["uniform", "normal", "gpt2", "xavier", "truncated"]


class Law(Protocol):
    """The distribution of one parameter's initial entries."""

    def draw(self, key: Tensor, shape: tuple[int, ...]) -> Tensor: ...


@dataclass(frozen=True)
class Constant:
    value: float

    def draw(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        return torch.full(shape, self.value)


@dataclass(frozen=True)
class Uniform:
    """On (-bound, bound)."""

    bound: float

    def draw(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        return (draws.uniform(key, shape[0], shape[1:]) * 2 - 1) * self.bound


@dataclass(frozen=True)
class Normal:
    std: float

    def draw(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        return draws.normal(key, shape[0], shape[1:]) * self.std


@dataclass(frozen=True)
class Truncated:
    """A normal cut at `cut` standard deviations, by its inverse distribution function; `std` is before the cut."""

    std: float
    cut: float = 3.0

    def draw(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        inside = math.erf(self.cut / math.sqrt(2))
        u = draws.uniform(key, shape[0], shape[1:]).double() * 2 - 1
        return (torch.erfinv(u * inside) * math.sqrt(2) * self.std).float()


@dataclass(frozen=True)
class LogUniform:
    """The logarithm of what is log-uniform on (low, high)."""

    low: float
    high: float

    def draw(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        return draws.uniform(key, shape[0], shape[1:]) * math.log(self.high / self.low) + math.log(self.low)


@dataclass(frozen=True)
class LogOfUniform:
    """The logarithm of what is uniform on (0, high)."""

    high: float

    def draw(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        return (draws.uniform(key, shape[0], shape[1:]) * self.high).log()


@dataclass(frozen=True)
class StepBias:
    """What softplus makes log-uniform on (low, high), raised to `floor`."""

    low: float
    high: float
    floor: float

    def draw(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        step = LogUniform(self.low, self.high).draw(key, shape).exp().clamp(min=self.floor)
        return step + torch.log(-torch.expm1(-step))


class Initialisable(Protocol):
    """A model that knows its own laws."""

    def laws(self) -> dict[str, Law]: ...


def initialise(model: nn.Module, seeds: StreamSeeds) -> None:
    """Draw every weight of a solo model from stream `init`, keyed by the parameter's name."""
    laws = model.laws()
    at = Address(seeds, "init")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(laws[name].draw(at.key(name), tuple(parameter.shape)))


def laws_of_leaves(
    model: nn.Module, scheme: Scheme, std: float | None = None, residual: Collection[str] = (), layers: int = 1
) -> dict[str, Law]:
    """The laws of all leaves of `model` under one scheme (TransformerConfig.init says what each is).

    `residual` names the Linear leaves that write to the residual stream, which `gpt2` divides by sqrt(2 * layers).
    A module with parameters of its own that no leaf holds says their laws itself: `own_laws()`, by parameter.
    Raises TypeError for a parameter that has no law.
    """
    laws: dict[str, Law] = {}
    for name, leaf in model.named_modules():
        if hasattr(leaf, "own_laws"):
            laws |= {f"{name}.{part}": law for part, law in leaf.own_laws().items()}
            continue
        for part, parameter in leaf.named_parameters(recurse=False):
            scale = 1 / math.sqrt(2 * layers) if scheme == "gpt2" and name in residual else 1.0
            laws[f"{name}.{part}"] = _law(leaf, part, tuple(parameter.shape), scheme, std, scale)
    return laws


def _law(leaf: nn.Module, part: str, shape: tuple[int, ...], scheme: Scheme, std: float | None, scale: float) -> Law:
    if isinstance(leaf, LayerNorm | RMSNorm):
        return Constant(1.0 if part == "weight" else 0.0)
    if isinstance(leaf, Linear):
        fan_out, fan_in = leaf.weight.shape
        if scheme == "uniform":
            return Uniform(fan_in**-0.5)
        if part == "bias":
            return Constant(0.0)
        if scheme == "xavier":
            return Normal(math.sqrt(2 / (fan_in + fan_out)))
        return Truncated(std or fan_in**-0.5) if scheme == "truncated" else Normal((std or 0.02) * scale)
    if isinstance(leaf, Embedding | Positions):
        if scheme == "uniform":
            # The framework's defaults: N(0, 1) for a table looked up by symbol; the published positional table is
            # a bias-free Linear read by one-hot position, so its fan in is the length.
            return Normal(1.0) if isinstance(leaf, Embedding) else Uniform(shape[0] ** -0.5)
        return Truncated(std or shape[1] ** -0.5) if scheme == "truncated" else Normal(std or 0.02)
    raise TypeError(f"{type(leaf).__name__} has a parameter '{part}' but no law for its initial value")
