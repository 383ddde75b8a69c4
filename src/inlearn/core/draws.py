"""Addressed randomness: every draw is a pure function of (seed, stream, step, what), the same on every device.

A draw is a counter run through the SplitMix64 finaliser (Steele, Lea & Flood 2014) in int64 tensor operations,
under a 64-bit key that blake2b makes of the address. Nothing is consumed, so nothing has to be saved: a rank or a
micro-batch draws its rows alone, an evaluation repeated a year later sees the same numbers.
`torch.Generator` would keep 32 seed bits on the CPU and give another order on every card (docs/architecture.md).

Integers agree on every device and release; normals agree to 1e-6 between devices (libm differs in the last bits).

Shapes: a `key` is an int64 tensor of any shape (...,), usually a scalar; `rows` and `first` say which rows of the
draw are wanted, and row r of a draw depends on the key and r alone. Results are (..., rows, *shape).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


GAMMA = _signed(0x9E3779B97F4A7C15)
_ROUNDS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)))


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place. int64 shifts are arithmetic, so each is masked to a logical one."""
    for shift, factor in _ROUNDS:
        z ^= (z >> shift) & ((1 << (64 - shift)) - 1)
        z *= factor
    z ^= (z >> 31) & ((1 << 33) - 1)
    return z


def _mixed(z: int) -> int:
    """`_mix` of one plain integer."""
    mask = (1 << 64) - 1
    z &= mask
    for shift, factor in _ROUNDS:
        z = ((z ^ (z >> shift)) * factor) & mask
    return _signed(z ^ (z >> 31))


class StreamSeeds(Protocol):
    """Anything hashable with an integer seed for `init`, `task`, `data`, `noise`, `dropout`, `chain` and `eval`."""

    eval: int


@lru_cache(maxsize=4096)
def _host_key(seed: int, stream: str, what: tuple[str | int, ...]) -> int:
    digest = hashlib.blake2b(repr((seed, stream, *what)).encode(), digest_size=8).digest()
    return _signed(int.from_bytes(digest, "little"))


@dataclass(frozen=True)
class Address:
    """A place in a run's randomness: which stream, and the step along it. `seeds` holds one seed a stream."""

    seeds: StreamSeeds
    stream: str
    step: int | Tensor = 0

    def key(self, *what: str | int, device: torch.device | str = "cpu") -> Tensor:
        """The scalar int64 key of one named draw here, e.g. `at.key("inputs")`."""
        seed = getattr(self.seeds, self.stream.rpartition("/")[2])
        here = _host_key(seed, self.stream, what)
        if isinstance(self.step, int):  # in plain integers: a tenth of the time of eleven tensor operations
            return torch.tensor(_mixed(here + (self.step + 1) * GAMMA), device=device)
        return _mix(here + (self.step.to(device) + 1) * GAMMA)

    def beside(self, stream: str) -> Address:
        """The same place in another stream. Its full name keeps training and evaluation apart: `eval/noise`."""
        return Address(self.seeds, f"{self.stream}/{stream}", self.step)


@dataclass(frozen=True)
class Addresses:
    """A place in the randomness of each of E runs that are trained together: keys have the members last, (..., E).

    `step` (..., E) holds each member's own; what is drawn for member e is what `Address(seeds[e], ...)` draws.
    """

    seeds: tuple[StreamSeeds, ...]
    stream: str
    step: Tensor

    def key(self, *what: str | int, device: torch.device | str = "cpu") -> Tensor:
        name = self.stream.rpartition("/")[2]
        here = _host_keys(tuple(getattr(seeds, name) for seeds in self.seeds), self.stream, what, torch.device(device))
        return _mix(here + (self.step.to(device) + 1) * GAMMA)

    def beside(self, stream: str) -> Addresses:
        return Addresses(self.seeds, f"{self.stream}/{stream}", self.step)


@lru_cache(maxsize=256)  # kept on the device: a CUDA graph may copy nothing from the host
def _host_keys(seeds: tuple[int, ...], stream: str, what: tuple[str | int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor([_host_key(seed, stream, what) for seed in seeds], device=device)


def each(key: Tensor, index: Tensor) -> Tensor:
    """One key for every object in `index`: object i gets the same key in whatever set it is drawn."""
    return _mix(key + (index + 1) * GAMMA)


def bits(key: Tensor, rows: int, width: int, first: int = 0) -> Tensor:
    """(..., rows, width) words of 64 random bits."""
    counter = _small_counter if rows * width <= 1 << 16 else _counter
    return _mix(counter(first * width, rows * width, key.device) + key[..., None]).unflatten(-1, (rows, width))


def _counter(first: int, count: int, device: torch.device) -> Tensor:
    """(count,) multiples of GAMMA."""
    with torch.inference_mode(False):
        return torch.arange(first + 1, first + count + 1, device=device) * GAMMA


_small_counter = lru_cache(maxsize=64)(_counter)  # training asks for the same ones at every step


def uniform(key: Tensor, rows: int, shape: tuple[int, ...] = (), first: int = 0) -> Tensor:
    """(..., rows, *shape) float32 in the open interval (0, 1): the midpoints of 2^23 equal cells, exact in float32."""
    words = bits(key, rows, math.prod(shape), first)
    return (((words >> 41) & 0x7FFFFF).float().add_(0.5).mul_(2.0**-23)).reshape(*key.shape, rows, *shape)


def normal(key: Tensor, rows: int, shape: tuple[int, ...] = (), first: int = 0) -> Tensor:
    """(..., rows, *shape) float32 standard normals by Box and Muller, two from each word; |z| < 5.8."""
    count = math.prod(shape)
    words = bits(key, rows, (count + 1) // 2, first)
    radius = ((words >> 41) & 0x7FFFFF).float().add_(0.5).mul_(2.0**-23).log_().mul_(-2.0).sqrt_()
    angle = ((words >> 8) & 0xFFFFFFFF).float().mul_(2.0 * math.pi * 2.0**-32)
    pairs = torch.empty(*words.shape, 2, device=key.device)
    torch.mul(radius, angle.cos(), out=pairs[..., 0])
    torch.mul(radius, angle.sin_(), out=pairs[..., 1])
    return pairs.flatten(-2)[..., :count].reshape(*key.shape, rows, *shape)


def integers(key: Tensor, rows: int, high: int | Tensor, shape: tuple[int, ...] = (), first: int = 0) -> Tensor:
    """(..., rows, *shape) int64 in [0, high), high <= 2^31, by multiply and shift (bias below high / 2^32).

    A tensor `high` has a value for each key, unchecked: looking at it would make a GPU wait.
    """
    if isinstance(high, Tensor):
        high = high[..., None, None]
    elif not 1 <= high <= 1 << 31:
        raise ValueError(f"high is {high}; expected 1 to 2^31")
    words = bits(key, rows, math.prod(shape), first)
    return ((((words >> 32) & 0xFFFFFFFF) * high) >> 32).reshape(*key.shape, rows, *shape)


def permutation(key: Tensor, count: int) -> Tensor:
    """(..., count) int64: a uniformly random order of 0..count-1 (ties among 64-bit words have odds of count²/2^65)."""
    return bits(key, 1, count).squeeze(-2).argsort(dim=-1, stable=True)
