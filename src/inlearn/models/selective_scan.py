"""The selective scan of Mamba (Gu & Dao 2023, algorithm 2): a diagonal linear recurrence with coefficients from inputs.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t,    y_t = C_t h_t

for every inner channel. The decays differ by channel, state and position, so no matrix product computes it. What
costs are passes over tensors of N T I S numbers, of which only a few positions exist at a time here: states are kept
at the beginning of every chunk of positions, and the backward pass computes those between again.

Shapes: E members, N rows, T positions, I inner channels, S states a channel, L positions of a chunk, G members that are
computed together. Within, positions lead and channels come last: (L, G, N, S, I).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

CHUNK = 16  # positions; 4, 8 and 32 are no quicker
TOGETHER = 1 << 18  # numbers in a buffer from which on members come one after another
WHOLE = 64  # numbers in whole registers: exp2 computes what is left over by another formula (leaves.anywhere)


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """y (..., N, T, I) and the last state (..., N, I, S); "..." is nothing or the members.

    u, delta (..., N, T, I), A (I, S) | (E, I, S), B, C (..., N, T, S), state (..., N, I, S) before the first position;
    all of one dtype, in which it computes under autocast too. Differentiable once.
    """
    if u.dim() == 4:
        y, last, _ = _SelectiveScan.apply(u, delta, A, B, C, state)
        return y, last
    y, last, _ = _SelectiveScan.apply(*(x[None] for x in (u, delta, A, B, C, state)))
    return y[0], last[0]


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _forward(u, delta, A, B, C, state)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        u, delta, A, B, C, _ = inputs
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(u, delta, A, B, C, output[2])

    @staticmethod
    def backward(ctx: Any, of_y: Tensor, of_last: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        return _backward(of_y, of_last, *ctx.saved_tensors)


# Operators of their own, so that a compiler takes them whole instead of unrolling their loops.


@torch.library.custom_op("inlearn::selective_scan", mutates_args=())
def _forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and the states (chunks, E, N, S, I) before every chunk."""
    y, last, kept = _shaped_forward(u, delta, A, B, C, state)
    for members in _groups(u, A):
        chunks = _Chunks(u[members], delta[members], A[members], B[members])
        C_, h = _positions_first(C[members]), _state_first(state[members])
        y_ = y[members].permute(2, 0, 1, 3)
        for number, begin in enumerate(chunks.begins):
            kept[number, members] = h
            states = chunks.states(begin, h)
            stop, h = begin + len(states) - 1, states[-1]
            y_[begin:stop] = _each_product(C_[begin:stop], states[1:])
        last[members] = h.mT
    return y, last, kept


@_forward.register_fake
def _shaped_forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    chunks, (members, rows, inner, size) = math.ceil(u.shape[2] / CHUNK), state.shape
    return (
        u.new_empty(u.shape),
        state.new_empty(state.shape),
        state.new_empty(chunks, members, rows, size, inner),
    )


@torch.library.custom_op("inlearn::selective_scan_backward", mutates_args=())
def _backward(
    of_y: Tensor, of_last: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of u, delta, A, B, C and the first state."""
    gradients = _shaped_backward(of_y, of_last, u, delta, A, B, C, kept)
    for members in _groups(u, A):
        own = (x[members] for x in (of_y, of_last, u, delta, A, B, C))
        for whole, part in zip(gradients, _backward_of_some(*own, kept[:, members]), strict=True):
            whole[members] = part
    return gradients


@_backward.register_fake
def _shaped_backward(
    of_y: Tensor, of_last: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    u, delta, A, B, C, state = (x.new_empty(x.shape) for x in (u, delta, A, B, C, of_last))
    return u, delta, A, B, C, state


def _backward_of_some(
    of_y: Tensor, of_last: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, kept: Tensor
) -> tuple[Tensor, ...]:
    """With G_t the gradient of h_t: G_t = C_t of_y_t + exp(delta_{t+1} A) G_{t+1}."""
    chunks = _Chunks(u, delta, A, B)
    of_y, C = _positions_first(of_y), _positions_first(C)
    of_drive, of_delta, of_B, of_C = (torch.empty_like(x) for x in (of_y, of_y, C, C))
    of_A = torch.zeros_like(kept[0])
    later = _state_first(of_last)  # what the position after brings
    G = torch.empty_like(chunks.decay)
    each = G.unbind(0)
    for number, begin in reversed(list(enumerate(chunks.begins))):
        states = chunks.states(begin, kept[number])
        steps = len(states) - 1
        now, decay, g = slice(begin, begin + steps), chunks.decay[:steps], G[:steps]
        torch.mul(C[now].unsqueeze(-1), of_y[now].unsqueeze(-2), out=g)
        each[steps - 1].add_(later)
        for t in range(steps - 2, -1, -1):
            each[t].addcmul_(chunks.decays[t + 1], each[t + 1])
        later = chunks.decays[0] * each[0]
        of_C[now] = _each_product(of_y[now], states[1:].mT)
        of_B[now] = _each_product(chunks.drive[now], g.mT)
        of_drive[now] = _each_product(chunks.B[now], g)
        g.mul_(decay).mul_(states[:-1])  # the gradient of delta_t A
        for t, delta in enumerate(chunks.deltas[now]):
            of_A.addcmul_(each[t], delta)
        of_delta[now] = torch.mul(g, chunks.A, out=decay).sum(-2)
    of_delta.addcmul_(of_drive, chunks.u)
    of_u = of_drive.mul_(chunks.delta)
    back = (x.permute(1, 2, 0, 3) for x in (of_u, of_delta, of_B, of_C))
    of_u, of_delta, of_B, of_C = back
    return of_u, of_delta, of_A.sum(1).mT, of_B, of_C, later.mT


class _Chunks:
    """Decays and states of one chunk after another, in the same memory."""

    def __init__(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> None:
        self.u, self.delta, self.B = (_positions_first(x) for x in (u, delta, B))
        self.A = A.mT.contiguous().unsqueeze(1)
        # exp2 takes a third of the time of exp, which torch gives to MKL.
        self._base_2 = self.A * math.log2(math.e)
        self.drive = self.delta * self.u
        self.deltas = self.delta.unsqueeze(-2).unbind(0)
        steps, members, rows, inner = self.u.shape
        self.begins = range(0, steps, CHUNK)
        size = (min(CHUNK, steps), members, rows, B.shape[-1], inner)
        self._states = self.u.new_empty(size[0] + 1, *size[1:])
        self._padded = self.u.new_empty(math.prod(size) + WHOLE)
        self.decay = self._padded[:-WHOLE].view(size)
        self.decays, self._each = self.decay.unbind(0), self._states.unbind(0)

    def states(self, begin: int, before: Tensor) -> Tensor:
        """(L + 1, G, N, S, I), `before` and what follows; their decays are in `decay` (L, ...)."""
        now = slice(begin, begin + CHUNK)
        delta = self.delta[now]
        steps = len(delta)
        count = torch.mul(delta.unsqueeze(-2), self._base_2, out=self.decay[:steps]).numel()
        self._padded[: count + -count % WHOLE].exp2_()
        self._states[0] = before
        torch.mul(self.B[now].unsqueeze(-1), self.drive[now].unsqueeze(-2), out=self._states[1 : steps + 1])
        for t in range(steps):
            self._each[t + 1].addcmul_(self.decays[t], self._each[t])
        return self._states[: steps + 1]


def _each_product(rows: Tensor, matrices: Tensor) -> Tensor:
    """Every row (L, G, N, a) times its matrix (L, G, N, a, b)."""
    return torch.bmm(rows.flatten(0, 2).unsqueeze(1), matrices.flatten(0, 2)).view(*rows.shape[:3], -1)


def _groups(u: Tensor, A: Tensor) -> list[slice]:
    """The members, in slices whose buffers stay in the cache. What is computed of one does not depend on the others."""
    members, rows, steps, inner = u.shape
    together = max(1, TOGETHER // max(1, min(steps, CHUNK) * rows * inner * A.shape[-1]))
    return [slice(first, min(first + together, members)) for first in range(0, members, together)]


def _positions_first(x: Tensor) -> Tensor:
    """(G, N, T, *) to (T, G, N, *)."""
    return x.permute(2, 0, 1, 3).contiguous()


def _state_first(x: Tensor) -> Tensor:
    """(G, N, I, S) to (G, N, S, I)."""
    return x.mT.contiguous()
