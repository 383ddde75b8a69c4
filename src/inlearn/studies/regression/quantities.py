"""Exact numbers of the problem, and Monte Carlo estimates of them that go by another road than the learners."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from inlearn.core import draws
from inlearn.core.draws import Address
from inlearn.studies.regression.references import ridge_predictions
from inlearn.studies.regression.tasks import Gaussian, Source

_BLOCK = 16384  # rows inverted at once


def _address(seed: int) -> Address:
    return Address(SimpleNamespace(eval=seed, noise=seed), "eval")


def zero_loss(dimension: int, noise_variance: float, prior_variance: float = 1.0) -> float:
    """E y² = D τ² + s²: the expected squared error of answering 0."""
    return dimension * prior_variance + noise_variance


def ridge_floors(
    dimension: int, examples: int, noise_variance: float, rows: int, seed: int, prior_variance: float = 1.0
) -> Tensor:
    """(K,) float64: the least possible expected squared error at each position, under the Gaussian prior.

    Given the inputs, the posterior covariance is s² (XᵀX + s²/τ² I)⁻¹, so the error expected of a new standard
    normal input is s² plus its trace: exact in w, the noise and x_k, averaged over `rows` draws of the inputs only.
    Without noise the trace is τ² max(D - k, 0): every example settles one direction.
    """
    if noise_variance == 0:
        return prior_variance * (dimension - torch.arange(examples)).clamp(min=0).double()
    key = _address(seed).key("inputs")
    regulariser = noise_variance / prior_variance * torch.eye(dimension, dtype=torch.float64)
    traces = torch.zeros(examples, dtype=torch.float64)
    for first in range(0, rows, _BLOCK):
        xs = draws.normal(key, min(_BLOCK, rows - first), (examples, dimension), first).double()
        gram = regulariser.expand(len(xs), -1, -1)
        for k in range(examples):
            traces[k] += torch.linalg.inv(gram).diagonal(dim1=-2, dim2=-1).sum()
            gram = gram + xs[:, k, :, None] * xs[:, k, None, :]
    return noise_variance * (1 + traces / rows)


def ridge_floor(
    dimension: int, examples: int, noise_variance: float, rows: int = 50_000, seed: int = 0, prior_variance: float = 1.0
) -> float:
    """The mean of `ridge_floors` over positions."""
    return ridge_floors(dimension, examples, noise_variance, rows, seed, prior_variance).mean().item()


def ridge_floor_at(
    position: int,
    dimension: int,
    examples: int,
    noise_variance: float,
    rows: int = 50_000,
    seed: int = 0,
    prior_variance: float = 1.0,
) -> float:
    """`ridge_floors` at one 0-based position."""
    return ridge_floors(dimension, examples, noise_variance, rows, seed, prior_variance)[position].item()


def ridge_loss(
    dimension: int, examples: int, noise_variance: float, rows: int = 50_000, seed: int = 0, prior_variance: float = 1.0
) -> float:
    """The mean squared error that the ridge learner makes on `rows` sequences of the Gaussian prior."""
    source = Source(Gaussian(dimension, prior_variance), examples, dimension, noise_variance)
    total = 0.0
    for first in range(0, rows, _BLOCK):
        drawn = source.sequences(_address(seed), min(_BLOCK, rows - first), first)
        answers = ridge_predictions(drawn.xs, drawn.ys, noise_variance / prior_variance)
        total += (answers - drawn.ys).square().sum().item()
    return total / (rows * examples)
