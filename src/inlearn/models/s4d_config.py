"""What an S4D can be asked to be. No torch here; the code is in s4d.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from inlearn.models.options import ResidualConfig

if TYPE_CHECKING:
    from inlearn.core.spaces import Interface
    from inlearn.models.sequence import SequenceModel


class S4DConfig(ResidualConfig):
    """Blocks of a diagonal state-space model (Gu, Gupta, Goel & Ré 2022, arXiv 2206.11893), without MLP unless asked.

    state: real numbers kept by each channel, half as many conjugate pairs of complex states. dt_min, dt_max: at the
    start the step sizes are log-uniform between them.
    dropout: of the embedded inputs, before the gated read-out of a block, and what every block adds to the stream.
    """

    SHAPELESS: ClassVar[frozenset[str]] = ResidualConfig.SHAPELESS | {"dt_min", "dt_max"}
    kind: Literal["s4d"] = "s4d"
    state: PositiveInt = 64
    dt_min: PositiveFloat = 1e-3
    dt_max: PositiveFloat = 0.1
    mlp: int | None = Field(0, ge=0)
    init: Literal["uniform", "normal", "gpt2", "xavier", "truncated"] = "uniform"

    @model_validator(mode="after")
    def _possible(self) -> S4DConfig:
        if self.state % 2:
            raise ValueError(f"state = {self.state} is odd; expected an even number, two for each conjugate pair")
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min = {self.dt_min} is above dt_max = {self.dt_max}")
        return self

    def build(self, interface: Interface) -> SequenceModel:
        """The model, its weights not yet drawn (`initialise` draws them). Raises UserError where they do not fit."""
        from inlearn.models.s4d import S4D
        from inlearn.models.sequence import ResidualModel

        return ResidualModel(self, interface, lambda: S4D(self))
