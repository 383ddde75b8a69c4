"""A causal depthwise convolution over the last few positions, with the inputs that the next one needs as its state.

Shapes: N rows, T positions, C channels, K taps; "..." is nothing or the members of a stack.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlearn.models.initialise import Law, Uniform
from inlearn.models.leaves import beside


class ShortConvolution(nn.Module):
    """y_t = bias + sum_k weight[:, k] x_{t-K+1+k}, channel by channel; what stands before the first position is zero.

    weight (C, K) | (E, C, K), bias (C,) | (E, C) or None. Draws as torch's Conv1d does: U(±1/sqrt(K)).
    """

    def __init__(self, width: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width, kernel), float("nan")))
        self.bias = nn.Parameter(torch.full((width,), float("nan"))) if bias else None

    def own_laws(self) -> dict[str, Law]:
        return {name: Uniform(self.weight.shape[-1] ** -0.5) for name, _ in self.named_parameters()}

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (..., N, T, C) after the K-1 inputs `state` (..., N, K-1, C) to y (..., N, T, C) and the next state."""
        x, before = x.to(self.weight.dtype), self.weight.shape[-1] - 1
        known = F.pad(x, (0, 0, before, 0)) if state is None else torch.cat((state, x), -2)
        taps = beside(self.weight.mT.contiguous(), 2, x)
        bias = None if self.bias is None else beside(self.bias, 1, x)
        return _ShiftedSum.apply(known, taps, bias), known[..., x.shape[-2] :, :].clone()


class _ShiftedSum(torch.autograd.Function):
    """known (..., N, K-1+T, C), taps (..., K, C), bias to (..., N, T, C), the first axes of taps and bias broadcast.

    K shifted multiply-adds in place. torch's grouped conv1d takes 4 times as long, and autograd of the same sum twice
    as long, for each of its additions has a tensor of its own.
    """

    @staticmethod
    def forward(known: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
        first, *rest = _aligned(known, taps)
        y = first[0] * first[1] if bias is None else torch.addcmul(bias, *first)
        for shifted, tap in rest:
            y.addcmul_(shifted, tap)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        known, taps, bias = inputs
        ctx.save_for_backward(known, taps)
        ctx.bias_shape = None if bias is None else bias.shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        known, taps = ctx.saved_tensors
        more = taps.shape[-2] - 1
        of_known = _ShiftedSum.apply(F.pad(gradient, (0, 0, more, more)), taps.flip(-2), None)
        of_taps = torch.stack([(shifted * gradient).sum((-3, -2)) for shifted, _ in _aligned(known, taps)], -2)
        of_bias = None if ctx.bias_shape is None else gradient.sum((-3, -2)).view(ctx.bias_shape)
        return of_known, of_taps.view(taps.shape), of_bias

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], known: Tensor, taps: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        """vmap's axis is members, whom the sum takes anyway."""

        def led(x: Tensor, dim: int | None) -> Tensor:
            return x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)

        known = led(known, in_dims[0])
        taps = beside(led(taps, in_dims[1]), taps.dim() - (in_dims[1] is not None), known)
        if bias is not None:
            bias = beside(led(bias, in_dims[2]), bias.dim() - (in_dims[2] is not None), known)
        return _ShiftedSum.apply(known, taps, bias), 0


def _aligned(known: Tensor, taps: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each tap (..., 1, C) beside the inputs (..., N, T, C) that it multiplies."""
    kernel = taps.shape[-2]
    steps = known.shape[-2] - kernel + 1
    return [(known[..., k : k + steps, :], taps[..., k : k + 1, :]) for k in range(kernel)]
