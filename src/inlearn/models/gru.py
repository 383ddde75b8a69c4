"""Gated recurrent units. On a GPU their fast form is cuDNN's, elsewhere a loop over positions with a backward pass
of its own, batched over members: torch's CPU kernel takes 1.4 to 2.5 times as long solo (docs/log.md).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inlearn.models.leaves import anywhere, linear
from inlearn.models.recurrence import State, full_precision
from inlearn.models.recurrent_layer import RecurrentLayer, count_flop, library, members_first, once

sigmoid = anywhere(torch.sigmoid)


class GRULayer(RecurrentLayer):
    """Gates r, z, n in this order; the state is (hidden,)."""

    GATES = 3

    def step(self, state: State, inputs: tuple[Tensor, ...]) -> State:
        (hidden,), (x,) = state, inputs
        x_r, x_z, x_n = linear(x, self.weight_ih, self.bias_ih).chunk(3, -1)
        h_r, h_z, h_n = linear(hidden, self.weight_hh, self.bias_hh).chunk(3, -1)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        n = (x_n + r * h_n).tanh()
        return ((1 - z) * n + z * hidden,)

    def fast(self, state: State, *inputs: Tensor) -> tuple[Tensor, State]:
        (x,), (hidden,) = inputs, state
        if x.is_cuda:
            return library(torch.gru, x, state, [getattr(self, name) for name in self.PARAMETERS])
        width, solo = x.shape[-1], x.dim() == 3
        # r and z add up both of their biases, n takes them apart.
        bias = self.bias_ih + F.pad(self.bias_hh[..., : 2 * width], (0, width))
        projected = linear(x.transpose(-2, -3), self.weight_ih, bias)
        given = (projected, hidden, self.weight_hh, self.bias_hh[..., 2 * width :])
        projected, hidden, weight, bias = (tensor[None] for tensor in given) if solo else given
        states = _GRU.apply(projected, hidden, weight, bias)[0]
        y, last = states[1:].permute(1, 2, 0, 3).contiguous(), states[-1]
        return (y[0], (last[0],)) if solo else (y, (last,))


class _GRU(torch.autograd.Function):
    """x (E, T, N, 3 C) projected inputs with the biases of r and z, hidden (E, N, C) before them, weight (E, 3 C, C)
    and bias (E, C), n's, to the states (T + 1, E, N, C) before and after all positions (and what backward needs).
    """

    @staticmethod
    def forward(x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _forward(x, hidden, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        states, gates, candidates = output
        ctx.mark_non_differentiable(gates, candidates)
        ctx.save_for_backward(states, gates, candidates, inputs[2])

    @staticmethod
    def backward(ctx: Any, of_states: Tensor, _gates: Tensor, _candidates: Tensor) -> tuple[Tensor, ...]:
        with full_precision(of_states.device):
            return once(_backward, of_states, *ctx.saved_tensors)


# Operators of their own, so that a compiler takes them whole instead of unrolling their loops.


@torch.library.custom_op("inlearn::gru", mutates_args=())
def _forward(x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The states; of every position r, z and the hidden part of n (T, E, N, 3 C); and n (T, E, N, C)."""
    states, gates, candidates = _shaped_forward(x, hidden, weight, bias)
    x = x.transpose(0, 1)
    width, across = weight.shape[2], weight.mT.contiguous()  # columns in order are a fifth faster here
    gates.copy_(x)
    gates[..., 2 * width :] = bias[:, None]
    states[0] = h = hidden
    steps = zip(
        gates.unbind(0), gates[..., : 2 * width].unbind(0), *(gate.unbind(0) for gate in gates.split(width, -1)),
        x[..., 2 * width :].unbind(0), candidates.unbind(0), states[1:].unbind(0), strict=True,
    )  # fmt: skip
    for gate, rz, r, z, h_n, x_n, n, after in steps:
        gate.baddbmm_(h, across)
        rz.sigmoid_()
        torch.addcmul(x_n, r, h_n, out=n).tanh_()
        torch.lerp(n, h, z, out=after)
        h = after
    return states, gates, candidates


@_forward.register_fake
def _shaped_forward(x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    members, steps, rows, wide = x.shape
    shape = (members, rows, wide // 3)
    return x.new_empty(steps + 1, *shape), x.new_empty(steps, members, rows, wide), x.new_empty(steps, *shape)


@torch.library.custom_op("inlearn::gru_backward", mutates_args=())
def _backward(
    of_states: Tensor, states: Tensor, gates: Tensor, n: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `_forward`'s arguments.

    A gate's gradient is the hidden state's times something known of all positions beforehand, so that what is left of
    a step is one product of each kind.
    """
    width = weight.shape[2]
    r, z, h_n = gates.split(width, -1)
    of_n = (1 - z) * (1 - n * n)
    of_gates = torch.stack((h_n * r * (1 - r) * of_n, (states[:-1] - n) * z * (1 - z), r * of_n), -2)
    flat = of_gates.flatten(-2)
    of_hidden = of_states.clone(memory_format=torch.contiguous_format)
    down, wide = of_hidden.unbind(0), of_hidden.unsqueeze(-2).unbind(0)
    steps = zip(down[1:], wide[1:], down[:-1], of_gates.unbind(0), flat.unbind(0), z.unbind(0), strict=True)
    for here, here_wide, earlier, slopes, gate, keep in reversed(list(steps)):
        slopes.mul_(here_wide)
        earlier.addcmul_(here, keep).baddbmm_(gate, weight)
    of_rows, state_rows, n_rows = members_first(flat, states[:-1], of_n.mul_(of_hidden[1:]))
    of_x = torch.cat((of_rows[..., : 2 * width], n_rows), -1).unflatten(1, (len(n), -1))
    of_bias = of_rows[..., 2 * width :].sum(1)
    return of_x, of_hidden[0].clone(), torch.bmm(of_rows.mT, state_rows), of_bias


@_backward.register_fake
def _shaped_backward(
    of_states: Tensor, states: Tensor, gates: Tensor, n: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (members, wide, width), (steps, _, rows, _) = weight.shape, gates.shape
    return (
        gates.new_empty(members, steps, rows, wide),
        states.new_empty(states.shape[1:]),
        weight.new_empty(weight.shape),
        weight.new_empty(members, width),
    )


count_flop(torch.ops.inlearn.gru, torch.ops.inlearn.gru_backward)
