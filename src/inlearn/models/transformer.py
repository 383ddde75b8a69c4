"""A causal pre-norm transformer, written once for solo and stacked parameters.

Shapes: N rows, T positions, C width, H heads of d, n scored positions; "..." stands for whatever leads: nothing, or
the members of a stack. Activation names are listed in activations.py.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from inlearn.core.spaces import Interface
from inlearn.models.activations import Point
from inlearn.models.attention import Segment, append, attend, expand, own_mask, rotate, rotation
from inlearn.models.blocks import Block, norm
from inlearn.models.leaves import Dropout, Linear
from inlearn.models.scored import Scored
from inlearn.models.sequence import SequenceModel
from inlearn.models.transformer_config import TransformerConfig


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


class AttentionBlock(Block):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, "attention", Attention(config), config.residual == "double")

    def mix(
        self, x: Tensor, table: Tensor | None, past: list[Segment] | None, before: int, scored: Scored | None
    ) -> tuple[Tensor, list[Segment]]:
        return self.attention(self.attention_norm(x), table, past or [], before, scored)


class Transformer(SequenceModel):
    """A state's layers are the segments of keys and values that its positions left (attention.py)."""

    WRITERS = ("attention.o", "mlp.down")

    def __init__(self, config: TransformerConfig, interface: Interface) -> None:
        blocks = [AttentionBlock(config) for _ in range(config.layers)]
        super().__init__(config, interface, blocks, norm(config) if config.final_norm else None)
