"""Rows of key-value pairs and questions about them (MQAR: Arora et al. 2023, arXiv 2312.04927).

Shapes: N rows of T symbols, at most K pairs a row. Tensors are made where the address's step lives (the CPU, if it is a
plain integer). Steps of shape (S,), or the members of a stack, stand in front of every shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from inlearn.core import draws
from inlearn.core.batch import Batch
from inlearn.core.draws import Address, Addresses
from inlearn.core.spaces import Interface


@dataclass(frozen=True)
class Pairs:
    """What generated a batch's rows. Where a row has fewer than K pairs, its first one stands in the rest."""

    counts: Tensor  # (N,) how many pairs the row has
    keys: Tensor  # (N, K)
    values: Tensor  # (N, K)
    places: Tensor  # (N, K) the position at which each key is asked for

    def to(self, device: torch.device | str) -> Pairs:
        return Pairs(*(each.to(device) for each in (self.counts, self.keys, self.values, self.places)))


@dataclass(frozen=True)
class Recall:
    """The context k1 v1 .. kK vK, `passes` times, then each key once, at an even offset.

    `counts` are numbers of pairs: each row draws one of them or, if `in_turn`, row r has counts[r % len(counts)].
    Marks: "pairs" is that number; "gap" (at questions) the positions from a key's last place in the context to its
    question, as the largest power of two that is no greater.
    """

    interface: Interface
    counts: tuple[int, ...]
    power: float = 0.01
    passes: int = 1
    filler: Literal["random", "zero"] = "random"
    in_turn: bool = False
    labels: Mapping[str, Sequence[float | str]] = field(default_factory=dict)

    def sample(self, at: Address | Addresses, rows: int, first: int = 0) -> Batch:
        pairs, context = self.draw(at, rows, first)
        length, counts = self.interface.length, pairs.counts[..., None]
        place = _places(length, pairs.keys.device)
        which = (place >> 1) % counts
        shown = torch.where(place % 2 == 0, pairs.keys.gather(-1, which), pairs.values.gather(-1, which))
        inputs = torch.where(place < context[..., None], shown, self._filler(at, rows, first))
        inputs = inputs.scatter_(-1, pairs.places, pairs.keys)
        targets = torch.zeros_like(inputs).scatter_(-1, pairs.places, pairs.values)
        weights = torch.zeros_like(inputs, dtype=torch.float32).scatter_(-1, pairs.places, 1.0)
        return Batch(inputs, targets, weights, marks=self._marks(pairs, context, targets), latents=pairs)

    def draw(self, at: Address | Addresses, rows: int, first: int = 0) -> tuple[Pairs, Tensor]:
        """The pairs, and the length (..., rows) of every row's context."""
        device = _device(at)
        most, half = max(self.counts), self.interface.inputs.size // 2
        keys = 1 + distinct(at.key("keys", device=device), rows, most, half - 1, first)
        values = half + distinct(at.key("values", device=device), rows, most, half, first)
        if self.in_turn:
            turn = ((_places(rows, device) + first) % len(self.counts)).expand(keys.shape[:-1])
        else:
            turn = draws.integers(at.key("pairs", device=device), rows, len(self.counts), first=first)
        counts = _numbers(self.counts, device)[turn]
        context = 2 * self.passes * counts
        slots = self.interface.length // 2 - self.passes * counts
        widest = self.interface.length // 2 - self.passes * min(self.counts)
        chosen = places_by_power(at.key("slots", device=device), slots, most, widest, self.power, first)
        missing = _places(most, device) >= counts[..., None]
        literal = (keys, values, context[..., None] + 2 * chosen)
        return Pairs(counts, *(torch.where(missing, each[..., :1], each) for each in literal)), context

    def _filler(self, at: Address | Addresses, rows: int, first: int) -> Tensor:
        device, size = _device(at), self.interface.inputs.size
        if self.filler == "zero":
            return torch.zeros((), dtype=torch.int64, device=device)
        return draws.integers(at.key("filler", device=device), rows, size, (self.interface.length,), first)

    def _marks(self, pairs: Pairs, context: Tensor, like: Tensor) -> dict[str, Tensor]:
        number = _places(pairs.keys.shape[-1], like.device)
        shown = number * (number < pairs.counts[..., None])  # the first pair's place for what stands for it
        gap = pairs.places - (context - 2 * pairs.counts)[..., None] - 2 * shown
        power = torch.ones_like(gap) << (torch.frexp(gap.double()).exponent.long() - 1)
        return {"pairs": pairs.counts, "gap": torch.zeros_like(like).scatter_(-1, pairs.places, power)}

    @classmethod
    def combined(cls, tasks: Sequence[Recall]) -> Recall | None:
        """Of equal tasks: what one draws at the addresses of many has the members in front."""
        return tasks[0] if all(task == tasks[0] for task in tasks) else None


# ---------------------------------------------------------------- draws


def distinct(key: Tensor, rows: int, count: int, high: int, first: int = 0) -> Tensor:
    """(..., rows, count) int64: `count` of the numbers below `high` without repetition, in uniformly random order.

    Word i is a rank among the numbers that the i before it left over; from the last to the first, each rank is counted
    past those before it. So a draw costs `count` words, not `high`.
    """
    words = draws.bits(key, rows, count, first)
    left = high - _places(count, key.device)
    found = (((words >> 32) & 0xFFFFFFFF) * left) >> 32
    for i in range(count - 2, -1, -1):
        later = found[..., i + 1 :]
        later += later >= found[..., i : i + 1]
    return found


def places_by_power(key: Tensor, slots: Tensor, count: int, widest: int, power: float, first: int = 0) -> Tensor:
    """(..., rows, count) int64: slots drawn one after the other without replacement, odds of slot g ~ (g+1)^(power-1).

    `slots` (..., rows) says how many a row has, `widest` the most of them; beyond a row's slots the result has no
    meaning. Exponential waiting times with these odds as rates, in the order in which they end, are that very draw. In
    float64, whose rounding leaves no two waits in another order on another device.
    """
    words = draws.bits(key, slots.shape[-1], widest, first)
    uniform = ((words >> 12) & ((1 << 52) - 1)).double().add_(0.5).mul_(2.0**-52)
    waits = uniform.log_().mul_(_patience(widest, power, key.device))
    waits.masked_fill_(_places(widest, key.device) >= slots[..., None], -torch.inf)
    return waits.topk(count, dim=-1).indices


def _device(at: Address | Addresses) -> torch.device:
    return at.step.device if isinstance(at.step, Tensor) else torch.device("cpu")


@lru_cache(maxsize=64)  # kept on the device: a CUDA graph may copy nothing from the host
def _numbers(values: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)


@lru_cache(maxsize=64)
def _places(count: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.arange(count, device=device)


@lru_cache(maxsize=64)
def _patience(slots: int, power: float, device: torch.device) -> Tensor:
    """(slots,) float64: mean waits, up to a constant factor."""
    with torch.inference_mode(False):
        return (_places(slots, device) + 1).double().pow(1.0 - power)
