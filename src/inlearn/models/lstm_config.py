"""What an LSTM can be asked to be. No torch here; the code is in lstm.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from inlearn.models.recurrent_options import RecurrentConfig

if TYPE_CHECKING:
    from inlearn.core.spaces import Interface
    from inlearn.models.sequence import RecurrentModel


class LSTMConfig(RecurrentConfig):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    forget_bias: added to what `recurrent_init` gives the forget gate's bias; with 1 cells begin by remembering
    (Jozefowicz et al. 2015).
    """

    SHAPELESS: ClassVar[frozenset[str]] = RecurrentConfig.SHAPELESS | {"forget_bias"}
    COMPILES: ClassVar[bool] = False
    kind: Literal["lstm"] = "lstm"
    forget_bias: float = 0.0

    def build(self, interface: Interface) -> RecurrentModel:
        """The model, its weights not yet drawn (`initialise` draws them). Raises UserError where they do not fit."""
        from inlearn.models.lstm import LSTMLayer
        from inlearn.models.sequence import RecurrentModel

        return RecurrentModel(self, interface, lambda: LSTMLayer(self))
