"""Least squares with a ridge, in closed form, for all targets of an activation at once.

Shapes: n positions, d numbers a position, C columns of a target (classes or quantities). Sums are over float32
products of some thousand positions at a time and kept in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGES = tuple(10.0**power for power in range(-6, 3))
"""Of standardised activations, whose mean square is 1. The one that errs least on the rows for choosing is taken."""

CHUNK = 8192
ONE_HOT = 64  # classes: beyond, sums by class take less than products with zeros


@dataclass(frozen=True)
class ReadOut:
    """outputs = (x - centre) weight + bias."""

    weight: Tensor  # (d, C) float64
    bias: Tensor  # (C,)
    centre: Tensor  # (d,)
    ridge: float

    def __call__(self, x: Tensor) -> Tensor:
        """(n, C) in the precision of x."""
        bias = self.bias - self.centre @ self.weight
        return torch.addmm(bias.to(x.dtype), x, self.weight.to(x.dtype))


@dataclass(frozen=True)
class Sums:
    """Of one part: x'x / n, mean of x; per target x'y / n, mean of y, mean of each column's y²."""

    square: Tensor
    mean: Tensor
    cross: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]

    def about(self, centre: Tensor, others: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The same second moments about points for x and each y."""
        shift = self.mean - centre
        square = self.square - torch.outer(centre, self.mean) - torch.outer(shift, centre)
        cross, squares = [], []
        for xy, y, yy, other in zip(self.cross, self.means, self.squares, others, strict=True):
            cross.append(xy - torch.outer(centre, y) - torch.outer(shift, other))
            squares.append(yy - 2 * other * y + other * other)
        return square, cross, squares


def standardise(x: Tensor, fitting: slice) -> None:
    """In place: mean 0 and mean square 1 on the positions for fitting; what does not vary there becomes 0."""
    own = x[fitting]
    mean = own.mean(0, dtype=torch.float64)
    x -= mean.float()
    scale = torch.stack([part.double().square().sum(0) for part in own.split(CHUNK)]).sum(0).div(len(own)).sqrt()
    still = scale <= 1e-6 * mean.abs()  # rounding of a constant
    x *= torch.where(still, 0.0, scale.reciprocal()).nan_to_num(posinf=0.0).float()


def columns(values: Tensor, classes: int | None, kind: torch.dtype) -> Tensor:
    """(n, C): classes as one-hot rows, quantities as they are."""
    return values.to(kind) if classes is None else F.one_hot(values, classes).to(kind)


def sums(x: Tensor, targets: Sequence[Tensor], classes: Sequence[int | None]) -> Sums:
    n, d = x.shape
    square, mean = x.new_zeros(d, d, dtype=torch.float64), x.new_zeros(d, dtype=torch.float64)
    cross = [x.new_zeros(d, c or y.shape[-1], dtype=torch.float64) for y, c in zip(targets, classes, strict=True)]
    means = [xy.new_zeros(xy.shape[1]) for xy in cross]
    squares = [xy.new_zeros(xy.shape[1]) for xy in cross]
    small = [i for i, c in enumerate(classes) if c is None or c <= ONE_HOT]
    for first in range(0, n, CHUNK):
        part = x[first : first + CHUNK]
        square += part.T @ part
        mean += part.sum(0)
        ys = {i: targets[i][first : first + CHUNK] for i in range(len(targets))}
        for i in small:
            y = columns(ys[i], classes[i], torch.float64)
            means[i] += y.sum(0)
            squares[i] += y.square().sum(0)
        for i in set(ys) - set(small):
            cross[i] += part.new_zeros(len(means[i]), d).index_add_(0, ys[i], part).T
            counts = torch.bincount(ys[i], minlength=len(means[i]))
            means[i] += counts
            squares[i] += counts
        if small:
            products = part.T @ torch.cat([columns(ys[i], classes[i], x.dtype) for i in small], 1)
            for i, product in zip(small, products.split([len(means[i]) for i in small], 1), strict=True):
                cross[i] += product
    return Sums(square / n, mean / n, [a / n for a in cross], [a / n for a in means], [a / n for a in squares])


def ridge(
    x: Tensor, fitting: slice, choosing: slice, targets: Sequence[Tensor], classes: Sequence[int | None]
) -> list[ReadOut]:
    """A read-out of each target from standardised x (n, d), with the ridge of least squared error on `choosing`.

    `classes`: how many a target has, none for quantities.
    """
    own = sums(x[fitting], [y[fitting] for y in targets], classes)
    other = sums(x[choosing], [y[choosing] for y in targets], classes)
    square, cross, _ = own.about(own.mean, own.means)
    unseen, unseen_cross, unseen_squares = other.about(own.mean, own.means)
    values, vectors = torch.linalg.eigh(square)
    values = values.clamp(min=0.0)
    rotated = vectors.T @ unseen @ vectors
    found = []
    for xy, uxy, uyy, mean in zip(cross, unseen_cross, unseen_squares, own.means, strict=True):
        turned, unseen_turned = vectors.T @ xy, vectors.T @ uxy
        best, least, weight = RIDGES[-1], float("inf"), turned
        for strength in reversed(RIDGES):  # of equal ones the strongest
            trial = turned / (values + strength)[:, None]
            error = float(uyy.sum() - 2 * (trial * unseen_turned).sum() + (trial * (rotated @ trial)).sum())
            if error < least:
                best, least, weight = strength, error, trial
        found.append(ReadOut(vectors @ weight, mean, own.mean, best))
    return found
