"""The ideal learners of noisy linear regression, for every prefix of every sequence at once.

Shapes: xs (N, K, D), ys (N, K); a prediction at position k uses examples 0..k-1 and x_k. Everything is computed in
float64 unless `dtype` says otherwise. Inside, the rows come last, so that each step is one pass over long lines of
memory instead of N small matrix operations (benchmarks/references.py: against a loop over prefixes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Mechanism

MEBIBYTE = 1 << 20
# A block of work on the CPU, measured over 2^14..2^20 numbers: larger ones leave the cache, smaller ones pay per call.
_CACHED = 1 << 18
_CACHED_ROWS = 1024
_NO_ODDS = -80.0  # e^-80 is lost beside 1 in float64; an underflowing exp takes 6 to 18 times as long


# ---------------------------------------------------------------- predictions


def ridge_predictions(xs: Tensor, ys: Tensor, regulariser: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """(N, K): ŷ_k = x_k·(XᵀX + regulariser I)⁻¹Xᵀy over the examples before k; 0 for the first.

    Bayes for w ~ N(0, τ² I) and noise variance s² when the regulariser is s²/τ². Recursive least squares: the
    posterior covariance (in units of τ²) and mean are updated by each example in turn, O(K D²) a row. Regulariser 0
    is the limit: the shortest w that fits, where an example that adds no direction teaches nothing.
    """
    count, examples, dimension = xs.shape
    answers = torch.empty(count, examples, dtype=dtype, device=xs.device)
    rows = count if xs.is_cuda else max(512, (1 << 16) // dimension**2)
    for first in range(0, count, max(1, rows)):
        x_KDn = xs[first : first + rows].to(dtype).permute(1, 2, 0).contiguous()
        y_Kn = ys[first : first + rows].to(dtype).T
        answers[first : first + rows] = _recursive_least_squares(x_KDn, y_Kn, regulariser).T
    return answers


def _recursive_least_squares(x_KDn: Tensor, y_Kn: Tensor, regulariser: float) -> Tensor:
    examples, dimension, rows = x_KDn.shape
    covariance = torch.eye(dimension, dtype=x_KDn.dtype, device=x_KDn.device)[..., None].repeat(1, 1, rows)
    scratch = torch.empty_like(covariance)
    w = x_KDn.new_zeros(dimension, rows)
    answers = torch.empty_like(y_Kn, memory_format=torch.contiguous_format)
    for k, x in enumerate(x_KDn):
        torch.sum(w * x, 0, out=answers[k])
        if k == examples - 1:
            break
        spread = torch.mul(covariance, x, out=scratch).sum(1)
        innovation = (spread * x).sum(0) + regulariser
        if regulariser == 0:
            # What is left of a direction already known is rounding; dividing by it would be noise.
            known = innovation <= torch.finfo(x.dtype).eps ** 0.5 * x.square().sum(0)
            innovation = innovation.masked_fill(known, math.inf)
        gain = spread / innovation
        w.addcmul_(gain, y_Kn[k] - answers[k])
        covariance.addcmul_(gain[:, None], spread[None], value=-1)
    return answers


def dmmse_predictions(
    xs: Tensor,
    ys: Tensor,
    vectors: Tensor,
    noise_variance: float,
    memory: int = 256 * MEBIBYTE,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """(N, K): the mean of w·x_k under the posterior over the M `vectors` (M, D), given the examples before k.

    Posterior odds are exp(-Σ_{j<k} (y_j - w·x_j)² / 2s²). Rows and vectors are taken in blocks that fit into
    `memory` bytes (working memory, beside inputs and answers); the softmax over vectors runs along with the blocks,
    so any cap gives the same answer. Noise 0 is the limit: the best-fitting vectors, ties shared evenly.
    """
    count, examples, _ = xs.shape
    answers = torch.empty(count, examples, dtype=dtype, device=xs.device)
    numbers, rows = memory // (2 * answers.element_size()), count
    if not xs.is_cuda:
        numbers, rows = min(numbers, _CACHED), min(rows, _CACHED_ROWS)
    rows = max(1, min(rows, numbers // examples))
    chunk = max(1, min(len(vectors), numbers // (rows * examples)))
    work = torch.empty(2, chunk * examples * rows, dtype=dtype, device=xs.device)
    for first in range(0, count, rows):
        x_DKn = xs[first : first + rows].to(dtype).permute(2, 1, 0).contiguous()
        y_Kn = ys[first : first + rows].to(dtype).T.contiguous()
        # With no noise at all, labels still carry the rounding of their storage: that is the smallest noise used.
        rounding = y_Kn.square().amax(0) * 1e-12
        scale_n = (2 * rounding.clamp(min=max(noise_variance, 1e-30))).sqrt()
        parts = (v.to(answers) for v in vectors.split(chunk))
        mixed = _posterior_mean(x_DKn / scale_n, y_Kn / scale_n, parts, work)
        answers[first : first + rows] = (mixed * scale_n).T
    return answers


def _posterior_mean(x_DKn: Tensor, y_Kn: Tensor, vectors: Iterator[Tensor], work: Tensor) -> Tensor:
    """(K, n): softmax(-squared error so far)-weighted answers, in units where 2s² is 1. `work` is two buffers."""
    lowest = torch.full_like(y_Kn, math.inf)
    total, mixed = torch.zeros_like(lowest), torch.zeros_like(lowest)
    examples, rows = y_Kn.shape
    for w_mD in vectors:
        answer, error = work[:, : len(w_mD) * y_Kn.numel()].view(2, len(w_mD), examples, rows)
        torch.mm(w_mD, x_DKn.flatten(1), out=answer.flatten(1))
        error[:, 0] = 0
        torch.sub(answer[:, :-1], y_Kn[:-1], out=error[:, 1:]).square_()
        for k in range(2, examples):
            error[:, k] += error[:, k - 1]
        lower = torch.minimum(lowest, error.amin(0))
        shrink = (lower - lowest).clamp_(min=_NO_ODDS).exp_()
        odds = torch.sub(lower, error, out=error).clamp_(min=_NO_ODDS).exp_()
        total.mul_(shrink).add_(odds.sum(0))
        mixed.mul_(shrink).add_(odds.mul_(answer).sum(0))
        lowest = lower
    return mixed.div_(total)


def linear_predictions(xs: Tensor, w: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """(N, K): w·x_k for one w (D,) or one a row (N, D)."""
    return (xs.to(dtype) * w.to(xs.device, dtype).unsqueeze(-2)).sum(-1)


def first_example_predictions(xs: Tensor, ys: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """(N, K): x_k on the line through the first example, y_1 (x_1·x_k)/|x_1|²; 0 for the first.

    The published figure's version was computed without any example and so equals the zero predictor.
    """
    xs, ys = xs.to(dtype), ys.to(dtype)
    start = xs[:, 0]
    answers = linear_predictions(xs, start * (ys[:, :1] / start.square().sum(-1, keepdim=True)), dtype)
    answers[:, 0] = 0
    return answers


# ---------------------------------------------------------------- reference learners


def at_scored(batch: Batch, answers: Tensor) -> Tensor:
    """(n, 1): predictions (N, K) where the batch scores an answer; token t belongs to example t // 2."""
    tokens = batch.weights.shape[-1]
    return answers[batch.scored // tokens, batch.scored % tokens // 2][:, None]


@dataclass(frozen=True)
class Ridge:
    """Bayes for the Gaussian prior."""

    regulariser: float
    dtype: torch.dtype = torch.float64
    name: str = "ridge"
    mechanism: Mechanism = "context"

    def predict(self, batch: Batch) -> Tensor:
        return at_scored(batch, ridge_predictions(batch.latents.xs, batch.latents.ys, self.regulariser, self.dtype))


@dataclass(frozen=True)
class DMMSE:
    """Bayes for the discrete prior: it knows the M training vectors by heart and finds out which one is meant."""

    vectors: Tensor  # (M, D)
    noise_variance: float
    memory: int = 256 * MEBIBYTE
    dtype: torch.dtype = torch.float64
    name: str = "dmmse"
    mechanism: Mechanism = "weights"

    def predict(self, batch: Batch) -> Tensor:
        xs, ys = batch.latents.xs, batch.latents.ys
        answers = dmmse_predictions(xs, ys, self.vectors, self.noise_variance, self.memory, self.dtype)
        return at_scored(batch, answers)


@dataclass(frozen=True)
class TaskMean:
    """The mean of the training vectors, whatever the context says."""

    mean: Tensor  # (D,) float64
    dtype: torch.dtype = torch.float64
    name: str = "task_mean"
    mechanism: Mechanism = "weights"

    def predict(self, batch: Batch) -> Tensor:
        return at_scored(batch, linear_predictions(batch.latents.xs, self.mean, self.dtype))


@dataclass(frozen=True)
class Zero:
    """Always 0: the mean answer under a prior that is symmetric about 0."""

    dtype: torch.dtype = torch.float64
    name: str = "zero"
    mechanism: Mechanism = "none"

    def predict(self, batch: Batch) -> Tensor:
        return torch.zeros(len(batch.scored), 1, dtype=self.dtype, device=batch.weights.device)


@dataclass(frozen=True)
class FirstExample:
    """Learns from the first example only."""

    dtype: torch.dtype = torch.float64
    name: str = "first_example"
    mechanism: Mechanism = "context"

    def predict(self, batch: Batch) -> Tensor:
        return at_scored(batch, first_example_predictions(batch.latents.xs, batch.latents.ys, self.dtype))
