"""What a Mamba can be asked to be. No torch here; the code is in mamba.py."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from inlearn.models.options import ResidualConfig

if TYPE_CHECKING:
    from inlearn.core.spaces import Interface
    from inlearn.models.sequence import SequenceModel


class MambaConfig(ResidualConfig):
    """Blocks of a selective state-space model (Gu & Dao 2023, arXiv 2312.00752), without MLP unless asked.

    width: of the residual stream; expand: inner channels are expand * width. state: numbers kept by each inner channel.
    kernel: positions that the short convolution before the recurrence sees, its own included.
    dt_rank: of the map from the inputs to the step sizes (none: width / 16, rounded up). dt_min, dt_max, dt_floor: at
    the start the step sizes are log-uniform in [dt_min, dt_max], and none is below dt_floor.
    dropout: of the embedded inputs and what every block adds to the stream.
    """

    SHAPELESS: ClassVar[frozenset[str]] = ResidualConfig.SHAPELESS | {"dt_min", "dt_max", "dt_floor"}
    kind: Literal["mamba"] = "mamba"
    state: PositiveInt = 16
    expand: PositiveInt = 2
    kernel: PositiveInt = 4
    dt_rank: PositiveInt | None = None
    dt_min: PositiveFloat = 1e-3
    dt_max: PositiveFloat = 0.1
    dt_floor: PositiveFloat = 1e-4
    mlp: int | None = Field(0, ge=0)
    norm: Literal["layernorm", "rmsnorm", "none"] = "rmsnorm"
    init: Literal["uniform", "normal", "gpt2", "xavier", "truncated"] = "uniform"

    @model_validator(mode="after")
    def _possible(self) -> MambaConfig:
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min = {self.dt_min} is above dt_max = {self.dt_max}")
        if self.dt_floor > self.dt_max:
            raise ValueError(f"dt_floor = {self.dt_floor} is above dt_max = {self.dt_max}")
        return self

    @property
    def inner(self) -> int:
        return self.expand * self.width

    @property
    def rank(self) -> int:
        return math.ceil(self.width / 16) if self.dt_rank is None else self.dt_rank

    def build(self, interface: Interface) -> SequenceModel:
        """The model, its weights not yet drawn (`initialise` draws them). Raises UserError where they do not fit."""
        from inlearn.models.mamba import Mamba
        from inlearn.models.sequence import ResidualModel

        return ResidualModel(self, interface, lambda: Mamba(self))
