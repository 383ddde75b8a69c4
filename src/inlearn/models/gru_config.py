"""What a GRU can be asked to be. No torch here; the code is in gru.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from inlearn.models.recurrent_options import RecurrentConfig

if TYPE_CHECKING:
    from inlearn.core.spaces import Interface
    from inlearn.models.sequence import RecurrentModel


class GRUConfig(RecurrentConfig):
    """Gated recurrent units (Cho et al. 2014), the reset gate after the product, as in torch and cuDNN."""

    kind: Literal["gru"] = "gru"

    def build(self, interface: Interface) -> RecurrentModel:
        """The model, its weights not yet drawn (`initialise` draws them). Raises UserError where they do not fit."""
        from inlearn.models.gru import GRULayer
        from inlearn.models.sequence import RecurrentModel

        return RecurrentModel(self, interface, lambda: GRULayer(self))
