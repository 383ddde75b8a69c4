"""What a gated DeltaNet can be asked to be. No torch here; the code is in gated_deltanet.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt, model_validator

from inlearn.models.options import ResidualConfig

if TYPE_CHECKING:
    from inlearn.core.spaces import Interface
    from inlearn.models.sequence import ResidualModel


class GatedDeltaNetConfig(ResidualConfig):
    """Linear attention that corrects what it reads at a key instead of adding to it, and forgets (Yang, Kautz &
    Hatamizadeh 2024, arXiv 2412.06464).

    heads: matrices of key_width by value_width. key_width: of a head's queries and keys (none: width / heads).
    value_width: of a head's values (none: key_width; the published layer takes twice that).
    kernel: how many positions each of the short convolutions of queries, keys and values sees.
    gate: what is kept decays by a factor that depends on the input, and what is read is gated by the input; false is
    the plain DeltaNet (Yang et al. 2024, arXiv 2406.06484), with neither.
    norm_eps: also of the norm of what a head reads.
    """

    kind: Literal["gated_deltanet"] = "gated_deltanet"
    heads: PositiveInt = 4
    key_width: PositiveInt | None = None
    value_width: PositiveInt | None = None
    kernel: PositiveInt = 4
    gate: bool = True

    @model_validator(mode="after")
    def _possible(self) -> GatedDeltaNetConfig:
        if self.key_width is None and self.width % self.heads:
            raise ValueError(
                f"width = {self.width} is not divisible by heads = {self.heads}; with key_width it need not be"
            )
        return self

    @property
    def key_head(self) -> int:
        return self.width // self.heads if self.key_width is None else self.key_width

    @property
    def value_head(self) -> int:
        return self.key_head if self.value_width is None else self.value_width

    def build(self, interface: Interface) -> ResidualModel:
        """The model, its weights not yet drawn (`initialise` draws them). Raises UserError where they do not fit."""
        from inlearn.models.gated_deltanet import GatedDeltaNet
        from inlearn.models.sequence import ResidualModel

        return ResidualModel(self, interface, lambda: GatedDeltaNet(self))
