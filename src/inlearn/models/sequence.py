"""The frame of every model: symbols or vectors are embedded, pass through blocks, and are read out at scored positions.

Shapes: N rows, T positions, C width, n scored positions; "..." stands for whatever leads: nothing, or the members of
a stack. A block is `block(x, table, state, before, scored) -> (x, state)`; see blocks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from inlearn.core.batch import grid
from inlearn.core.errors import UserError
from inlearn.core.spaces import Interface, Tokens
from inlearn.models.activations import Point
from inlearn.models.blocks import MixerBlock, RecurrentBlock, norm
from inlearn.models.initialise import Law, laws_of_leaves
from inlearn.models.leaves import Dropout, Embedding, Linear, Positions
from inlearn.models.options import ModelConfig, ResidualConfig
from inlearn.models.scored import Scored


@dataclass(frozen=True)
class State:
    """What `length` positions left behind, layer by layer, in each layer's own terms.

    `cut` positions after the last scored one were not computed, so a state with any cannot be continued.
    """

    layers: tuple[Any, ...]
    length: int
    cut: int = 0


class SequenceModel(nn.Module):
    """`model(inputs, state, scored)`; see core.contract.Model. Weights are NaN until `initialise` draws them."""

    WRITERS: ClassVar[tuple[str, ...]] = ()  # the Linear leaves of a block that write to the residual stream

    def __init__(
        self, config: ModelConfig, interface: Interface, blocks: Sequence[nn.Module], final_norm: nn.Module | None
    ) -> None:
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
        self.blocks = nn.ModuleList(blocks)
        self.final_norm = nn.Identity() if final_norm is None else final_norm
        self.head = Linear(width, outputs.width, config.head_bias)
        if config.tied:
            self.head.weight = self.embedding.weight
        self.embed, self.final, self.outputs = Point(), Point(), Point()
        if has_table:
            self.positions = Point()
        self._points = tuple(module for module in self.modules() if isinstance(module, Point))

    def laws(self) -> dict[str, Law]:
        writers = [f"blocks.{layer}.{leaf}" for layer in range(self.config.layers) for leaf in self.WRITERS]
        return laws_of_leaves(self, self.config.init, self.config.init_std, writers, self.config.layers)

    def forward(
        self, inputs: Tensor, state: State | None = None, scored: Tensor | slice | None = None
    ) -> tuple[Tensor, State]:
        """inputs (..., N, T) ids or (..., N, T, D) reals to outputs (..., N, T, width), or (..., n, width) at `scored`.

        `scored`, columns or (n,) indices of the N * T positions, is the same for each member; what no scored position
        needs is not computed. Raises UserError for more positions than a learned table has, ValueError for a state
        that does not fit the rows or was cut, and for inputs without positions.
        """
        axis = -1 if isinstance(self.interface.inputs, Tokens) else -2
        before = 0 if state is None else state.length
        if state is not None and state.cut:
            raise ValueError(f"this state lacks the {state.cut} positions after the last scored one")
        rows, steps = inputs.shape[axis - 1], inputs.shape[axis]
        if not steps:
            raise ValueError(f"inputs of shape {tuple(inputs.shape)} have no positions")
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
            past = None if state is None else state.layers[layer]
            x, after = block(x, table, past, before, plan if layer == len(self.blocks) - 1 else None)
            layers.append(after)
        outputs = self.outputs(self.head(self.final(self.final_norm(x))))
        if whole:
            chosen = scored if isinstance(scored, Tensor) else grid(scored, rows, steps, outputs.device)
            outputs = outputs.flatten(-3, -2).index_select(-2, chosen)
        return outputs, State(tuple(layers), before + steps, cut)

    @property
    def _hooked(self) -> bool:
        return any(point.hooked for point in self._points)


class ResidualModel(SequenceModel):
    """A residual stream with the mixer that `mixer()` makes in every block."""

    WRITERS = ("mixer.o", "mlp.down")

    def __init__(self, config: ResidualConfig, interface: Interface, mixer: Callable[[], nn.Module]) -> None:
        blocks = [MixerBlock(config, mixer()) for _ in range(config.layers)]
        super().__init__(config, interface, blocks, norm(config) if config.final_norm else None)


class RecurrentModel(SequenceModel):
    """Recurrent layers, one upon another, each made by `layer()`."""

    def __init__(self, config: ModelConfig, interface: Interface, layer: Callable[[], nn.Module]) -> None:
        super().__init__(
            config, interface, [RecurrentBlock(layer(), config.dropout) for _ in range(config.layers)], None
        )
