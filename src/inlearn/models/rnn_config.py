"""What a vanilla RNN can be asked to be. No torch here; the code is in rnn.py."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from inlearn.models.recurrent_options import RecurrentConfig

if TYPE_CHECKING:
    from inlearn.core.spaces import Interface
    from inlearn.models.sequence import RecurrentModel


class RNNConfig(RecurrentConfig):
    """Layers h_t = nonlinearity(W_ih x_t + W_hh h_{t-1} + b) (Elman 1990).

    recurrent_init: beside the others, `identity` W_hh = 1 (with relu: Le, Jaitly & Hinton 2015), the rest as for
    `orthogonal`; `xavier` both weights N(0, 2 / (3 width)), Xavier-normal of one matrix on [input, hidden], biases 0,
    as the published vanilla RNN has them.
    recurrent_dropout: a published quirk: what is dropped from the output of a layer is also dropped from what the
    layer carries on, afresh at every position, so that training corrupts the memory. Of every layer but the last.
    """

    kind: Literal["rnn"] = "rnn"
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    recurrent_init: Literal["orthogonal", "identity", "uniform", "xavier"] = "orthogonal"
    recurrent_dropout: bool = False

    @model_validator(mode="after")
    def _drops_something(self) -> RNNConfig:
        if self.recurrent_dropout and self.dropout == 0:
            raise ValueError("recurrent_dropout = true drops nothing with dropout = 0: expected dropout above 0")
        if self.recurrent_dropout and self.layers == 1:
            raise ValueError(
                "recurrent_dropout = true leaves the last layer out: expected layers of at least 2, found 1"
            )
        return self

    def build(self, interface: Interface) -> RecurrentModel:
        """The model, its weights not yet drawn (`initialise` draws them). Raises UserError where they do not fit."""
        from inlearn.models.rnn import RNNLayer
        from inlearn.models.sequence import RecurrentModel

        number = count(1)
        return RecurrentModel(self, interface, lambda: RNNLayer(self, last=next(number) == self.layers))
