"""Gated DeltaNet (Yang, Kautz & Hatamizadeh 2024, arXiv 2412.06464), as their layer in flash-linear-attention has it.

    S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,    y_t = S_t^T q_t / sqrt(d)

with S keys by values (the paper writes its transpose). What the state holds at a key is replaced by the share beta of
the new value, and all of it decays by alpha.

Over a chunk (Yang et al. 2024, arXiv 2406.06484), with g_i the sum of log alpha up to position i of the chunk and S the
state before it, S_i = e^{g_i} S + sum_{j<=i} e^{g_i - g_j} k_j u_j^T, where

    (I + A) U = diag(beta) (V - diag(e^g) K S),    A_ij = beta_i e^{g_i - g_j} k_i · k_j for j < i

A is strictly triangular. It is solved once a chunk for both right sides, so that only two products a chunk wait for the
state. Decays appear as exponentials of differences that are not positive, so nothing overflows.

Shapes: N rows, T positions, C width, H heads with keys of d and values of e, n chunks of L positions; "..." is nothing
or the members of a stack.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlearn.models import kernels
from inlearn.models.activations import Point
from inlearn.models.gated_deltanet_config import GatedDeltaNetConfig
from inlearn.models.initialise import Law, LogOfUniform, StepBias
from inlearn.models.leaves import Linear, RMSNorm, anywhere, beside
from inlearn.models.linear_attention import in_chunks, in_heads, out_of_chunks, read
from inlearn.models.recurrence import State, full_precision, literal, through
from inlearn.models.short_convolution import ShortConvolution

WIDE = 32  # keys; with more of them chunks of 32 positions are quicker than of 16; 64 is never (docs/log.md)
NORM_EPS = 1e-6  # beside the square of the norm of a query or key

silu, sigmoid, softplus = anywhere(F.silu), anywhere(torch.sigmoid), anywhere(F.softplus)


class GatedDeltaNet(nn.Module):
    """State: S (..., N, H, d, e), and the last inputs (..., N, kernel - 1, H * d or e) of the convolutions of q, k, v.

    Activations: query, key (N, T, H, d) after convolution and normalisation, value (N, T, H, e), log_decay (N, T, H),
    which is log alpha, strength (N, T, H), which is beta, state (N, T, H, d, e) after every position, mixed
    (N, T, H, e), what is read, before norm and gate, and output (N, T, C).
    """

    def __init__(self, config: GatedDeltaNetConfig) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        keys, values = heads * config.key_head, heads * config.value_head
        self.config = config
        self.q, self.k = Linear(width, keys, False), Linear(width, keys, False)
        self.v, self.b = Linear(width, values, False), Linear(width, heads, False)
        self.q_conv, self.k_conv = (ShortConvolution(keys, config.kernel, bias=False) for _ in range(2))
        self.v_conv = ShortConvolution(values, config.kernel, bias=False)
        if config.gate:
            self.a, self.g = Linear(width, heads, False), Linear(width, values, False)
            self.A_log = nn.Parameter(torch.full((heads,), float("nan")))
            self.dt_bias = nn.Parameter(torch.full((heads,), float("nan")))
            self.log_decay = Point()
        self.norm, self.o = RMSNorm(config.value_head, eps=config.norm_eps), Linear(values, width, False)
        self.query, self.key, self.value, self.strength = Point(), Point(), Point(), Point()
        self.state, self.mixed, self.output = Point(), Point(), Point()

    def own_laws(self) -> dict[str, Law]:
        return {"A_log": LogOfUniform(16.0), "dt_bias": StepBias(1e-3, 0.1, 1e-4)} if self.config.gate else {}

    def forward(self, x: Tensor, state: State | None, before: int) -> tuple[Tensor, State]:
        """x (..., N, T, C) to what is added to the stream, and the state after the last position."""
        config, dtype = self.config, self.q.weight.dtype
        projected = [leaf(x).to(dtype) for leaf in (self.q, self.k, self.v, self.b)]
        rate, gate = (self.a(x).to(dtype), self.g(x).to(dtype)) if config.gate else (None, None)
        with full_precision(x.device):
            S, *past = (None,) * 4 if state is None else state
            convolutions = (self.q_conv, self.k_conv, self.v_conv)
            seen = [conv(y, known) for conv, y, known in zip(convolutions, projected, past, strict=False)]
            q, k, v = (silu(y) for y, _ in seen)
            q, k = (unit(in_heads(y, config.key_head)) for y in (q, k))
            q, k, v = self.query(q), self.key(k), self.value(in_heads(v, config.value_head))
            beta = self.strength(sigmoid(projected[3]))
            decay = torch.zeros_like(beta) if rate is None else self.log_decay(self._log_decay(rate))
            if S is None:
                S = k.new_zeros(*k.shape[:-3], *k.shape[-2:], config.value_head)
            if x.shape[-2] == 1 or literal(self.state):
                mixed, S = self._step_by_step(q, k, v, decay, beta, S)
            else:
                delta_rule = kernels.gated_delta_rule if kernels.serving("gated_deltanet", q) else chunked
                mixed, S = delta_rule(q * config.key_head**-0.5, k, v, decay, beta, S)
            y = self.norm(self.mixed(mixed)).flatten(-2)
            y = y if gate is None else y * silu(gate)
        return self.output(self.o(y)), (S, *(known for _, known in seen))

    def _log_decay(self, rate: Tensor) -> Tensor:
        A, bias = (beside(parameter, 1, rate) for parameter in (self.A_log, self.dt_bias))
        return -A.exp() * softplus(rate + bias)

    def step(self, state: State, inputs: tuple[Tensor, ...]) -> State:
        """The state after one more position: its key, value (..., N, H, *), log decay and strength (..., N, H)."""
        k, v, decay, beta = inputs
        S = decay.exp()[..., None, None] * state[0]
        new = beta.unsqueeze(-1) * (v - read(k, S))
        return (S + k.unsqueeze(-1) * new.unsqueeze(-2),)

    def _step_by_step(
        self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, S: Tensor
    ) -> tuple[Tensor, Tensor]:
        axis = k.dim() - 3
        (states,) = through((self.state,), self.step, (S,), (k, v, decay, beta), axis)
        return read(q * self.config.key_head**-0.5, states), states.select(axis, -1)


def chunked(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """What q (..., N, T, H, d) read, (..., N, T, H, e), and the state (..., N, H, d, e) after the last position.

    k as q, v (..., N, T, H, e), decay (log alpha, at most 0) and beta (..., N, T, H).
    """
    lead, steps = state.shape[:-2], q.shape[-3]
    length = min(32 if q.shape[-1] > WIDE else 16, 1 << (steps - 1).bit_length())
    q, k, v, decay, beta = (in_chunks(x, length) for x in (q, k, v, decay.unsqueeze(-1), beta.unsqueeze(-1)))
    chunks = q.shape[-3]
    q, k, v, decay, beta = (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v, decay, beta))
    since = decay.cumsum(-2).exp()  # (B, L, 1), e^{g_i}, B of all heads' chunks
    later = torch.full((length, length), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
    # (B, L, L), e^{g_i - g_j} or 0. Each sum on its own: a difference of sums loses a small decay after a large one.
    within = (decay.expand(-1, -1, length).tril(-1).cumsum(-2) + later).exp()
    solved = _Inverse.apply(within * (k @ k.mT) * beta) * beta.mT
    own, by_state = solved @ v, (solved * since.mT) @ k  # U = own - by_state S
    kept, whole = k * within[:, -1:].mT, since[:, -1:]
    same = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    turn, added = torch.baddbmm(whole * same, kept.mT, by_state, alpha=-1), kept.mT @ own
    by_row = (x.unflatten(0, (-1, chunks)) for x in (turn, added))
    first, last = _Chain.apply(*by_row, state.flatten(0, -3), False)
    first = first.flatten(0, 1)
    scores = within * (q @ k.mT)
    mixed = torch.baddbmm(scores @ own, torch.baddbmm(since * q, scores, by_state, alpha=-1), first)
    return out_of_chunks(mixed.view(*lead, chunks, *mixed.shape[1:]), steps), last.view(state.shape)


@torch.library.custom_op("inlearn::chain", mutates_args=())
def _chain(turn: Tensor, added: Tensor, state: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    """S (B, d, e) before each of n steps, (B, n, d, e), and after them. From S = `state`: S <- turn_c S + added_c; or
    `back` from the last step to the first, S <- turn_c^T S + added_c. turn (B, n, d, d), added (B, n, d, e).

    An operator of its own, so that a compiler takes it whole instead of unrolling it.
    """
    before, _ = _shaped_chain(turn, added, state, back)
    chunks = range(turn.shape[1])
    for c in reversed(chunks) if back else chunks:
        before[:, c] = state
        state = torch.baddbmm(added[:, c], turn[:, c].mT if back else turn[:, c], state)
    return before, state


@_chain.register_fake
def _shaped_chain(turn: Tensor, added: Tensor, state: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    return added.new_empty(added.shape), state.new_empty(state.shape)


class _Chain(torch.autograd.Function):
    """`_chain`, whose gradients are the chain the other way."""

    @staticmethod
    def forward(turn: Tensor, added: Tensor, state: Tensor, back: bool) -> tuple[Tensor, Tensor]:
        return _chain(turn, added, state, back)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
        turn, _, _, ctx.back = inputs
        ctx.save_for_backward(turn, output[0])

    @staticmethod
    def backward(ctx: Any, of_before: Tensor, of_last: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        turn, before = ctx.saved_tensors
        after, first = _Chain.apply(turn, of_before, of_last, not ctx.back)
        of_turn = before @ after.mT if ctx.back else after @ before.mT
        return of_turn, after, first, None


class _Inverse(torch.autograd.Function):
    """(I + A)^-1 of the part of A (..., L, L) below its diagonal, L a power of two.

    Diagonal blocks of 1, 2, 4, ... are inverted from the halves before: [[X, 0], [-Y B X, Y]] of [[P, 0], [B, Q]] whose
    P and Q have the inverses X and Y. (I - A)(I + A²)(I + A⁴)... is no quicker and its terms cancel: for equal keys in
    float32 it is off by 2e9 at L = 64.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor) -> Tensor:
        length, size = A.shape[-1], 1
        X = torch.ones_like(A[..., :1]).unsqueeze(-1)  # (..., L / size, size, size)
        while size < length:
            pairs = A.unflatten(-1, (-1, 2, size)).unflatten(-4, (-1, 2, size))
            below = pairs[..., 1, :, :, 0, :].diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
            first, second = X.unflatten(-3, (-1, 2)).unbind(-3)
            corner = -(second @ (below @ first))
            upper, lower = torch.cat((first, torch.zeros_like(first)), -1), torch.cat((corner, second), -1)
            X, size = torch.cat((upper, lower), -2), 2 * size
        return X.squeeze(-3)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (X,) = ctx.saved_tensors
        below = torch.ones(X.shape[-2:], dtype=X.dtype, device=X.device).tril(-1)
        return X.mT @ gradient @ X.mT * -below


def unit(x: Tensor) -> Tensor:
    """x (..., d) over its length."""
    return x * ((x * x).sum(-1, keepdim=True) + NORM_EPS).rsqrt()
