"""What every model can be asked to be, and what every model of residual blocks can. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, model_validator

from inlearn.core.configuration import Config


class ModelConfig(Config):
    """width: of the embedded inputs and of what passes from layer to layer. dropout: see each model.

    positions: `learned` adds a table, one row a position; `none` leaves order to what reads one position after another.
    tied: the head's weight is the embedding's.
    init: of embedding, head and every Linear: `uniform` U(±1/sqrt(fan in)), weights and biases; `normal`
    N(0, init_std), biases 0; `gpt2` the same with what writes to the residual stream divided by sqrt(2 * layers);
    `xavier` N(0, 2 / (fan in + fan out)) with tables N(0, init_std); `truncated` cut at 3 standard deviations of
    1/sqrt(fan in), or of init_std where given. init_std: none means 0.02, except for `truncated`.
    """

    SHAPELESS: ClassVar[frozenset[str]] = frozenset({"init", "init_std"})
    STAND_INS: ClassVar[Mapping[str, str]] = {"match_params": "width"}
    COMPILES: ClassVar[bool] = True
    """Whether forward and backward can be traced into one function: not where they are a library's kernel, or a loop
    over positions that would be unrolled."""

    width: int = Field(64, gt=0, le=1 << 16)
    layers: int = Field(2, gt=0, le=1 << 10)
    positions: Literal["learned", "none"] = "none"
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    head_bias: bool = True
    embed_bias: bool = False
    tied: bool = False
    init: Literal["uniform", "normal", "gpt2", "xavier", "truncated"] = "gpt2"
    init_std: PositiveFloat | None = None

    @model_validator(mode="after")
    def _std_means_something(self) -> ModelConfig:
        if self.init == "uniform" and self.init_std is not None:
            raise ValueError(f"init_std = {self.init_std} has no meaning with init = uniform")
        return self

    def idle(self) -> dict[str, str]:
        """Fields that change nothing beside the others' values, each with the reason: refused where asked for."""
        return {}


class ResidualConfig(ModelConfig):
    """A stack of pre-norm blocks: x <- x + mixer(norm(x)), then x <- x + mlp(norm(x)).

    mlp: hidden width (none: 4 * width; 0: no MLP).
    """

    mlp: int | None = Field(None, ge=0)
    activation: Literal["relu", "gelu", "gelu_tanh", "swiglu"] = "gelu"
    norm: Literal["layernorm", "rmsnorm", "none"] = "layernorm"
    norm_eps: PositiveFloat = 1e-5
    final_norm: bool = True
    mlp_bias: bool = True

    def idle(self) -> dict[str, str]:
        return {} if self.mlp_width else dict.fromkeys(("activation", "mlp_bias"), "model.mlp = 0 leaves out the MLP")

    @property
    def mlp_width(self) -> int:
        return 4 * self.width if self.mlp is None else self.mlp
