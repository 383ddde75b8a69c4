"""Multinomial logistic regression by L-BFGS. Shapes as in ridge.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inlearn.analysis.probe.ridge import ReadOut

RIDGES = (1e-4, 1e-2, 1.0)
ITERATIONS = 300


def logistic(x: Tensor, fitting: slice, choosing: slice, target: Tensor, classes: int) -> ReadOut:
    """Minimises cross-entropy + ridge/2 |weight|² on `fitting`, for each ridge from the strongest on, which the next
    begins from; the one of least cross-entropy on `choosing` is taken. In the precision of x, standardised (n, d)."""
    weight = x.new_zeros(x.shape[1], classes, requires_grad=True)
    bias = x.new_zeros(classes, requires_grad=True)
    best, least = None, float("inf")
    for strength in reversed(RIDGES):
        _minimise(x[fitting], target[fitting], weight, bias, strength)
        with torch.no_grad():
            error = float(F.cross_entropy(torch.addmm(bias, x[choosing], weight), target[choosing]))
            if error < least:
                still = weight.detach().double().clone(), bias.detach().double().clone()
                best, least = ReadOut(*still, x.new_zeros(x.shape[1], dtype=torch.float64), strength), error
    return best


def _minimise(x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, strength: float) -> None:
    search = torch.optim.LBFGS(
        [weight, bias],
        max_iter=ITERATIONS,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        search.zero_grad()
        value = F.cross_entropy(torch.addmm(bias, x, weight), target) + 0.5 * strength * weight.square().sum()
        value.backward()
        return value

    search.step(loss)
