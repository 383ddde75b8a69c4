"""Vanilla recurrent layers. On a GPU their fast form is cuDNN's, elsewhere (and where what is carried on is dropped
out) a loop over positions with a backward pass of its own, batched over members: torch's CPU kernel takes 1.2 to 2
times as long solo (docs/log.md).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from inlearn.models.leaves import Dropout, linear
from inlearn.models.recurrence import State, full_precision
from inlearn.models.recurrent_layer import RecurrentLayer, count_flop, library, members_first, once
from inlearn.models.rnn_config import RNNConfig


class RNNLayer(RecurrentLayer):
    """The state is (hidden,). With `recurrent_dropout` it is as dropped out, in every layer but the last."""

    GATES = 1
    PARAMETERS = ("weight_ih", "weight_hh", "bias_ih")

    def __init__(self, config: RNNConfig, last: bool) -> None:
        super().__init__(config)
        self.drops_own = config.recurrent_dropout and not last
        self.relu = config.nonlinearity == "relu"
        self.dropout = Dropout(config.dropout) if self.drops_own else None

    def inputs(self, x: Tensor, before: int) -> tuple[Tensor, ...]:
        if self.dropout is None or not self.dropout.active:
            return (x,)
        return x, self.dropout(torch.ones_like(x), before)

    def step(self, state: State, inputs: tuple[Tensor, ...]) -> State:
        (hidden,), (x, *masks) = state, inputs
        both = linear(x, self.weight_ih, self.bias_ih) + linear(hidden, self.weight_hh)
        hidden = both.relu() if self.relu else both.tanh()
        return (hidden * masks[0] if masks else hidden,)

    def fast(self, state: State, *inputs: Tensor) -> tuple[Tensor, State]:
        (x, *masks), (hidden,) = inputs, state
        if x.is_cuda and not masks:
            parameters = self.weight_ih, self.weight_hh, self.bias_ih, torch.zeros_like(self.bias_ih)
            return library(torch.rnn_relu if self.relu else torch.rnn_tanh, x, state, parameters)
        solo, keep = x.dim() == 3, 1.0
        given = linear(x.transpose(-2, -3), self.weight_ih, self.bias_ih), hidden, self.weight_hh
        projected, hidden, weight = (tensor[None] for tensor in given) if solo else given
        mask = None
        if masks:
            keep = 1 - cast(Dropout, self.dropout).p
            mask = masks[0].transpose(-2, -3)[None] if solo else masks[0].transpose(-2, -3)
        states = _RNN.apply(projected, hidden, weight, mask, keep, self.relu)
        y, last = states[1:].permute(1, 2, 0, 3).contiguous(), states[-1]
        return (y[0], (last[0],)) if solo else (y, (last,))


class _RNN(torch.autograd.Function):
    """x (E, T, N, C) projected inputs, hidden (E, N, C) before them, weight (E, C, C) and mask (E, T, N, C), of zeros
    and 1 / keep, to the states (T + 1, E, N, C) before and after all positions.
    """

    @staticmethod
    def forward(x: Tensor, hidden: Tensor, weight: Tensor, mask: Tensor | None, keep: float, relu: bool) -> Tensor:
        return _forward(x, hidden, weight, mask, relu)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, weight, mask, ctx.keep, ctx.relu = inputs
        ctx.save_for_backward(output, weight, mask)

    @staticmethod
    def backward(ctx: Any, of_states: Tensor) -> tuple[Tensor | None, ...]:
        with full_precision(of_states.device):
            return *once(_backward, of_states, *ctx.saved_tensors, ctx.keep, ctx.relu), None, None, None


# Operators of their own, so that a compiler takes them whole instead of unrolling their loops.


@torch.library.custom_op("inlearn::rnn", mutates_args=())
def _forward(x: Tensor, hidden: Tensor, weight: Tensor, mask: Tensor | None, relu: bool) -> Tensor:
    states = _shaped_forward(x, hidden, weight, mask, relu)
    across = weight.mT.contiguous()  # columns in order are a fifth faster here
    masks = [None] * x.shape[1] if mask is None else mask.unbind(1)
    states[0] = h = hidden
    for now, kept, after in zip(x.unbind(1), masks, states[1:].unbind(0), strict=True):
        torch.baddbmm(now, h, across, out=after)
        h = after.relu_() if relu else after.tanh_()
        if kept is not None:
            h.mul_(kept)
    return states


@_forward.register_fake
def _shaped_forward(x: Tensor, hidden: Tensor, weight: Tensor, mask: Tensor | None, relu: bool) -> Tensor:
    members, steps, rows, width = x.shape
    return x.new_empty(steps + 1, members, rows, width)


@torch.library.custom_op("inlearn::rnn_backward", mutates_args=())
def _backward(
    of_states: Tensor, states: Tensor, weight: Tensor, mask: Tensor | None, keep: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `_forward`'s x, hidden and weight."""
    after, kept = states[1:], 1 if mask is None else mask.transpose(0, 1)
    # For tanh kept (1 - tanh²), where the state is tanh / keep.
    of_x = (after > 0).to(after.dtype).mul_(kept) if relu else kept - after.square().mul_(keep)
    of_hidden = of_states.clone(memory_format=torch.contiguous_format)
    down = of_hidden.unbind(0)
    for here, earlier, slope in reversed(list(zip(down[1:], down[:-1], of_x.unbind(0), strict=True))):
        earlier.baddbmm_(slope.mul_(here), weight)
    x_rows, state_rows = members_first(of_x, states[:-1])
    return x_rows.unflatten(1, (len(after), -1)), of_hidden[0].clone(), torch.bmm(x_rows.mT, state_rows)


@_backward.register_fake
def _shaped_backward(
    of_states: Tensor, states: Tensor, weight: Tensor, mask: Tensor | None, keep: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    steps, members, rows, width = states[1:].shape
    of_x = states.new_empty(members, steps, rows, width)
    return of_x, states.new_empty(members, rows, width), weight.new_empty(weight.shape)


count_flop(torch.ops.inlearn.rnn, torch.ops.inlearn.rnn_backward)
