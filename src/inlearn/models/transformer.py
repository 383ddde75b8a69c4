"""A causal pre-norm transformer, written once for solo and stacked parameters.

Shapes: N rows, T positions, C width, H heads of d, n scored positions; "..." stands for whatever leads: nothing, or
the members of a stack. Activation names are listed in activations.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlearn.core.batch import grid
from inlearn.core.errors import UserError
from inlearn.core.spaces import Interface, Tokens
from inlearn.models.activations import Point
from inlearn.models.attention import Segment, append, attend, expand, own_mask, rotate, rotation
from inlearn.models.initialise import Law, laws_of_leaves
from inlearn.models.leaves import Dropout, Embedding, LayerNorm, Linear, Positions, RMSNorm, anywhere
from inlearn.models.transformer_config import TransformerConfig

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": anywhere(F.gelu),
    "gelu_tanh": anywhere(partial(F.gelu, approximate="tanh")),
    "swiglu": anywhere(F.silu),
}


@dataclass(frozen=True)
class State:
    """What `length` positions left behind: for every layer its segments of keys and values (attention.py).

    `cut` positions after the last scored one were not computed, so a state with any cannot be continued.
    """

    layers: tuple[list[Segment], ...]
    length: int
    cut: int = 0


@dataclass(frozen=True)
class Scored:
    """Which of T positions need outputs: the queries at `columns`, of which `index` are picked (None: all)."""

    columns: slice
    index: Tensor | None

    @staticmethod
    def of(scored: Tensor | slice | None, rows: int, steps: int) -> Scored:
        """The least work for `scored`: columns, or (n,) into rows * steps positions.

        A grid (the same evenly spaced positions in every row) becomes a slice, which costs no gather. Looking at
        the numbers would make a GPU wait, so there every query is computed and the scored ones are picked.
        """
        if isinstance(scored, slice):
            start, stop, stride = scored.indices(steps)
            return Scored(slice(start, stop, None if stride == 1 else stride), None)
        if scored is None or (scored.numel() and scored.device.type != "cpu"):
            return Scored(slice(0, steps), scored)
        if not scored.numel():
            return Scored(slice(0, 0), None)
        each, uneven = divmod(scored.numel(), rows)
        if not uneven:
            first = int(scored[0])
            stride = int(scored[1]) - first if each > 1 else 1
            last = first + (each - 1) * stride
            columns = slice(first, last + 1, stride)
            if stride > 0 and last < steps and torch.equal(scored, grid(columns, rows, steps, scored.device)):
                return Scored(columns, None)
        row, column = scored // steps, scored % steps
        stop = int(column.max()) + 1
        return Scored(slice(0, stop), row * stop + column)

    def pick(self, x: Tensor) -> Tensor:
        """(..., N, columns, C) to (..., n, C)."""
        x = x.flatten(-3, -2)
        return x if self.index is None else x.index_select(-2, self.index)


def _norm(config: TransformerConfig) -> nn.Module:
    if config.norm == "none":
        return nn.Identity()
    return (LayerNorm if config.norm == "layernorm" else RMSNorm)(config.width, eps=config.norm_eps)


def _fold(x: Tensor) -> Tensor:
    """(..., N, T, H, d) with the members, which attention need not know, folded into the rows."""
    return x if x.dim() == 4 else x.flatten(0, -4)


class Attention(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, keys, bias = config.width, config.key_heads * config.head_width, config.attention_bias
        self.config = config
        self.q, self.k, self.v = Linear(width, width, bias), Linear(width, keys, bias), Linear(width, keys, bias)
        self.o = Linear(width, width, config.output_bias) if config.output_projection else nn.Identity()
        self.query, self.key, self.value = Point(), Point(), Point()
        self.scores, self.pattern, self.mixed, self.output = Point(), Point(), Point(), Point()
        self.pattern_dropout, self.dropout = Dropout(config.dropout), Dropout(config.dropout)

    def forward(
        self, x: Tensor, positions: Tensor | None, past: list[Segment], before: int, scored: Scored | None
    ) -> tuple[Tensor, list[Segment]]:
        """x (..., N, T, C), `before` positions into its rows, to what attention adds at the scored (default: all)."""
        steps, d = x.shape[-2], self.config.head_width
        columns = slice(0, steps) if scored is None else scored.columns
        asking = x if positions is None else x + positions
        everywhere = columns == slice(0, steps)
        q, k, v = self.q(asking if everywhere else asking[..., columns, :]), self.k(asking), self.v(x)
        q, k, v = (y.view(*y.shape[:-1], y.shape[-1] // d, d) for y in (q, k, v))
        if self.config.positions == "rotary":
            cos, sin = self._rotation(before + steps, x)
            k = rotate(k, cos[before:], sin[before:])
            q = rotate(q, cos[before:][columns], sin[before:][columns])
        q, k, v = self.query(q), self.key(k), self.value(v)
        segments = append(past, _fold(k), _fold(v))
        if self.scores.hooked or self.pattern.hooked or self.pattern_dropout.active:
            mixed = self._attend_openly(q, segments, columns, steps, before)
        else:
            mixed = attend(_fold(q), segments, columns, steps).view(q.shape)
        mixed = self.mixed(mixed).flatten(-2)
        mixed = mixed if scored is None else scored.pick(mixed)
        return self.output(self.dropout(self.o(mixed), before)), segments

    def _attend_openly(self, q: Tensor, segments: list[Segment], columns: slice, steps: int, before: int) -> Tensor:
        """Attention step by step on copied-out keys, for hooks and dropout on scores and pattern."""
        lead, (T, H, d) = q.shape[:-3], q.shape[-3:]
        q = q.reshape(-1, T, H, d)
        k, v = expand(segments, q.shape[0], H)
        mask = own_mask(q, segments[-1][0], columns, steps)
        mask = F.pad(mask, (k.shape[1] - mask.shape[1], 0))  # shared contexts are read in full
        scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) * d**-0.5 + mask
        pattern = self.scores(scores.unflatten(0, lead)).softmax(-1)
        pattern = self.pattern_dropout(self.pattern(pattern), before)
        return (pattern @ v.transpose(1, 2).unflatten(0, lead)).transpose(-3, -2)

    def _rotation(self, length: int, x: Tensor) -> tuple[Tensor, Tensor]:
        room = 1 << (length - 1).bit_length()  # few sizes, so that the cache serves growing sequences
        cos, sin = rotation(
            self.config.rotary_base, self.config.rotary_scale, self.config.head_width, room, x.dtype, x.device
        )
        return cos[:length], sin[:length]


class MLP(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, hidden, bias = config.width, config.mlp_width, config.mlp_bias
        self.activation = ACTIVATIONS[config.activation]
        self.gate = Linear(width, hidden, bias) if config.activation == "swiglu" else None
        self.up, self.down = Linear(width, hidden, bias), Linear(hidden, width, bias)
        self.hidden, self.output, self.dropout = Point(), Point(), Dropout(config.dropout)

    def forward(self, x: Tensor, before: int) -> Tensor:
        up = self.up(x)
        hidden = self.activation(up) if self.gate is None else self.activation(self.gate(x)) * up
        return self.output(self.dropout(self.down(self.hidden(hidden)), before))


class Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.double = config.residual == "double"
        self.attention_norm, self.attention = _norm(config), Attention(config)
        has_mlp = config.mlp_width > 0
        self.mlp_norm, self.mlp = (_norm(config), MLP(config)) if has_mlp else (None, None)
        self.input, self.middle, self.output = Point(), Point(), Point()

    def forward(
        self, x: Tensor, positions: Tensor | None, past: list[Segment], before: int, scored: Scored | None = None
    ) -> tuple[Tensor, list[Segment]]:
        """x (..., N, T, C) to the same, or (..., n, C) at the scored positions; and the segments with its own."""
        x = self.input(x)
        added, segments = self.attention(self.attention_norm(x), positions, past, before, scored)
        if scored is not None:
            x = scored.pick(x[..., scored.columns, :])
        middle = y = self.middle(x + added)
        if self.mlp is not None:
            y = y + self.mlp(self.mlp_norm(middle), before)
        return self.output(x + y if self.double else y), segments


class Transformer(nn.Module):
    """`model(inputs, state, scored)`; see core.contract.Model. Weights are NaN until `initialise` draws them."""

    def __init__(self, config: TransformerConfig, interface: Interface) -> None:
        super().__init__()
        self.config, self.interface = config, interface
        inputs, outputs, width = interface.inputs, interface.outputs, config.width
        if isinstance(inputs, Tokens):
            if config.embed_bias:
                raise UserError("model.embed_bias = true: inputs are tokens, and their embedding has no bias")
            self.embedding: nn.Module = Embedding(inputs.size, width)
        else:
            self.embedding = Linear(inputs.width, width, config.embed_bias)
        if config.tied and not (isinstance(inputs, Tokens) and inputs == outputs):
            raise UserError(
                f"model.tied = true: expected inputs and outputs over the same tokens, found {inputs} and {outputs}"
            )
        has_table = config.positions in ("learned", "shortformer")
        self.table = Positions(interface.length, width) if has_table else None
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.final_norm = _norm(config) if config.final_norm else nn.Identity()
        self.head = Linear(width, outputs.width, config.head_bias)
        if config.tied:
            self.head.weight = self.embedding.weight
        self.embed, self.final, self.outputs = Point(), Point(), Point()
        if has_table:
            self.positions = Point()
        self._points = tuple(module for module in self.modules() if isinstance(module, Point))

    def laws(self) -> dict[str, Law]:
        writers = [
            f"blocks.{layer}.{leaf}" for layer in range(self.config.layers) for leaf in ("attention.o", "mlp.down")
        ]
        return laws_of_leaves(self, self.config.init, self.config.init_std, writers, self.config.layers)

    def forward(
        self, inputs: Tensor, state: State | None = None, scored: Tensor | slice | None = None
    ) -> tuple[Tensor, State]:
        """inputs (..., N, T) ids or (..., N, T, D) reals to outputs (..., N, T, width), or (..., n, width) at `scored`.

        `scored`, columns or (n,) indices of the N * T positions, is the same for each member; what no scored position
        needs is not computed. Raises UserError for more positions than a learned table has, ValueError for a state
        that does not fit the rows or was cut.
        """
        axis = -1 if isinstance(self.interface.inputs, Tokens) else -2
        before = 0 if state is None else state.length
        if state is not None and state.cut:
            raise ValueError(f"this state lacks the {state.cut} positions after the last scored one")
        rows, steps = inputs.shape[axis - 1], inputs.shape[axis]
        if self.table is not None and before + steps > self.table.length:
            raise UserError(
                f"{before + steps} positions, but model.positions = {self.config.positions} has a table of "
                f"{self.table.length}"
            )
        # Hooks see, and dropout's row-wise masks need, every position; otherwise only the needed ones are computed.
        whole = scored is not None and (self._hooked or (self.training and self.config.dropout > 0))
        plan = None if scored is None or whole else Scored.of(scored, rows, steps)
        cut = steps - plan.columns.stop if plan is not None and plan.columns.stop else 0
        inputs = inputs.narrow(axis, 0, steps - cut)
        x = self.embed(self.embedding(inputs))
        table = None if self.table is None else self.positions(self.table(before, x.shape[-2], x))
        if self.config.positions == "learned":
            x, table = x + table, None
        x = self.dropout(x, before)

        layers = []
        for layer, block in enumerate(self.blocks):
            past = [] if state is None else state.layers[layer]
            x, segments = block(x, table, past, before, plan if layer == len(self.blocks) - 1 else None)
            layers.append(segments)
        outputs = self.outputs(self.head(self.final(self.final_norm(x))))
        if whole:
            chosen = scored if isinstance(scored, Tensor) else grid(scored, rows, steps, outputs.device)
            outputs = outputs.flatten(-3, -2).index_select(-2, chosen)
        return outputs, State(tuple(layers), before + steps, cut)

    @property
    def _hooked(self) -> bool:
        return any(point.hooked for point in self._points)
