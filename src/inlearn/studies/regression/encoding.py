"""Examples (x_k, y_k) as a sequence of tokens, and predictions back out of it.

Of example k the token 2k is [0, x_1 .. x_D] and the token 2k+1 is [y, 0 .. 0], so a causal model that reads token 2k
knows examples 0..k-1 and x_k: its answer there is the prediction of y_k.
"""

from __future__ import annotations

import torch
from torch import Tensor


def encode(xs: Tensor, ys: Tensor) -> Tensor:
    """xs (..., K, D) and ys (..., K) as tokens (..., 2K, D+1)."""
    return _interleave(xs, ys, 2 * xs.shape[-2])


def encode_asked(xs: Tensor, ys: Tensor) -> Tensor:
    """The tokens (..., 2K-1, D+1) that can influence a scored answer: all but the last y, which nothing follows.

    An exact saving for causal models. Interfaces still say 2K, so that position tables keep their published size.
    """
    return _interleave(xs, ys, 2 * xs.shape[-2] - 1)


def _interleave(xs: Tensor, ys: Tensor, length: int) -> Tensor:
    tokens = xs.new_zeros(*xs.shape[:-2], length, xs.shape[-1] + 1)
    tokens[..., 0::2, 1:] = xs
    tokens[..., 1::2, 0] = ys[..., : length // 2]
    return tokens


def decode(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """xs (..., K, D) and ys (..., K) of full-length tokens (..., 2K, D+1): the inverse of `encode`."""
    return tokens[..., 0::2, 1:], tokens[..., 1::2, 0]


def decode_answers(outputs: Tensor) -> Tensor:
    """ŷ (..., K): column 0 of a model's outputs (..., T, 1 or D+1) at the x tokens."""
    return outputs[..., 0::2, 0]


def decode_inputs(outputs: Tensor) -> Tensor:
    """x̂ (..., K, D): what a model with D+1 output columns emits at the y tokens, about the next x. Never trained."""
    return outputs[..., 1::2, 1:]


def positions(length: int, device: torch.device | str = "cpu") -> Tensor:
    """(T,) int64: the 0-based example that each token belongs to."""
    return torch.arange(length, device=device) // 2
