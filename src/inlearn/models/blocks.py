"""Pre-norm residual blocks: a mixer, which moves between positions, then an MLP, which does not, add to the stream.

Shapes: N rows, T positions, C width, n scored positions; "..." stands for whatever leads: nothing, or the members.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlearn.models.activations import Point
from inlearn.models.leaves import Dropout, LayerNorm, Linear, RMSNorm, anywhere
from inlearn.models.options import ResidualConfig
from inlearn.models.recurrence import State, fork
from inlearn.models.scored import Scored

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": anywhere(F.gelu),
    "gelu_tanh": anywhere(partial(F.gelu, approximate="tanh")),
    "swiglu": anywhere(F.silu),
}


def norm(config: ResidualConfig) -> nn.Module:
    if config.norm == "none":
        return nn.Identity()
    return (LayerNorm if config.norm == "layernorm" else RMSNorm)(config.width, eps=config.norm_eps)


class MLP(nn.Module):
    def __init__(self, config: ResidualConfig) -> None:
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
    """`name` says what the mixer is called in parameters and activations; subclasses say how it is asked (`mix`)."""

    def __init__(self, config: ResidualConfig, name: str, mixer: nn.Module, double: bool = False) -> None:
        super().__init__()
        self.double = double
        self.add_module(f"{name}_norm", norm(config))
        self.add_module(name, mixer)
        has_mlp = config.mlp_width > 0
        self.mlp_norm, self.mlp = (norm(config), MLP(config)) if has_mlp else (None, None)
        self.input, self.middle, self.output = Point(), Point(), Point()

    def mix(self, x: Tensor, table: Tensor | None, past: Any, before: int, scored: Scored | None) -> tuple[Tensor, Any]:
        """What the mixer adds at the scored positions (default: all) to x (..., N, T, C), and the state after it."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, table: Tensor | None, past: Any, before: int, scored: Scored | None = None
    ) -> tuple[Tensor, Any]:
        """x (..., N, T, C), `before` positions into its rows, to the same, or (..., n, C) at the scored positions.

        table: (T, C) of learned positions that blocks add by themselves. past: the state of this block, None before
        the first position.
        """
        x = self.input(x)
        added, state = self.mix(x, table, past, before, scored)
        if scored is not None:
            x = scored.picked(x)
        middle = y = self.middle(x + added)
        if self.mlp is not None:
            y = y + self.mlp(self.mlp_norm(middle), before)
        return self.output(x + y if self.double else y), state


class MixerBlock(Block):
    """A block around any mixer `(x, state, before) -> (what it adds, state)` with a state of fixed size."""

    def __init__(self, config: ResidualConfig, mixer: nn.Module) -> None:
        super().__init__(config, "mixer", mixer)
        self.dropout = Dropout(config.dropout)

    def mix(
        self, x: Tensor, table: Tensor | None, past: State | None, before: int, scored: Scored | None
    ) -> tuple[Tensor, State]:
        added, state = self.mixer(self.mixer_norm(x), forked(past, x), before)
        return self.dropout(added if scored is None else scored.picked(added), before), state


class RecurrentBlock(nn.Module):
    """A recurrent layer as it was before residual streams: its output is the next layer's input."""

    def __init__(self, layer: nn.Module, dropout: float) -> None:
        super().__init__()
        self.recurrence = layer
        self.dropout = Dropout(0.0 if layer.drops_own else dropout)
        self.input, self.output = Point(), Point()

    def forward(
        self, x: Tensor, table: Tensor | None, past: State | None, before: int, scored: Scored | None = None
    ) -> tuple[Tensor, State]:
        """As `Block.forward`."""
        x = self.input(x)
        y, state = self.recurrence(x, forked(past, x), before)
        return self.output(self.dropout(y if scored is None else scored.picked(y), before)), state


def forked(past: State | None, x: Tensor) -> State | None:
    return None if past is None else fork(past, x.shape[-3], x.dim() - 3)
