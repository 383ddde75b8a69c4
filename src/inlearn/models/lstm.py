"""Long short-term memory. Its fast form is torch's own kernel, oneDNN's on a CPU and cuDNN's on a GPU.

Members come one after another: a loop over positions of our own, batched over members, takes 1.2 to 1.8 times as long
on a CPU, also for 16 members of width 16 (docs/log.md).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from inlearn.models.activations import Point
from inlearn.models.initialise import Law
from inlearn.models.leaves import linear
from inlearn.models.lstm_config import LSTMConfig
from inlearn.models.recurrence import State
from inlearn.models.recurrent_layer import Raised, RecurrentLayer, library


class LSTMLayer(RecurrentLayer):
    """Gates i, f, g, o in this order; the state is (hidden, cell).

    Activations: hidden, cell (..., N, T, C).
    """

    GATES = 4

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.cell = Point()

    @property
    def points(self) -> tuple[Point, ...]:
        return self.hidden, self.cell

    def step(self, state: State, inputs: tuple[Tensor, ...]) -> State:
        i, f, g, o = self._gates(state, inputs)
        cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell

    def within(self, before: State, inputs: tuple[Tensor, ...], here: State) -> State:
        """The hidden state that follows from an edited cell."""
        *_, o = self._gates(before, inputs)
        return o.sigmoid() * here[1].tanh(), here[1]

    def _gates(self, state: State, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        gates = linear(inputs[0], self.weight_ih, self.bias_ih) + linear(state[0], self.weight_hh, self.bias_hh)
        return gates.chunk(4, -1)

    def fast(self, state: State, *inputs: Tensor) -> tuple[Tensor, State]:
        return library(torch.lstm, *inputs, state, [getattr(self, name) for name in self.PARAMETERS])

    def own_laws(self) -> dict[str, Law]:
        laws, config = super().own_laws(), cast(LSTMConfig, self.config)
        forget = Raised(laws["bias_ih"], config.width, 2 * config.width, config.forget_bias)
        return laws | {"bias_ih": forget}
