"""What a transformer can be asked to be. No torch here; the code is in transformer.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from inlearn.models.options import ResidualConfig

if TYPE_CHECKING:
    from inlearn.core.spaces import Interface
    from inlearn.models.transformer import Transformer


class TransformerConfig(ResidualConfig):
    """A causal pre-norm decoder. Every published model of the five studies is one setting of these fields.

    width: of the residual stream. mlp: hidden width (none: 4 * width; 0: attention only). kv_heads: key and value
    heads, shared by groups of query heads (none: as many as heads).
    positions: `learned` adds a table to the stream; `shortformer` adds it to the inputs of queries and keys only;
    `rotary` turns queries and keys by position * rotary_scale * rotary_base^(-2i / head width) (2 pi in rotary_scale
    is a published quirk); `none` leaves order to the causal mask.
    dropout: of the embedded inputs, the attention pattern, and what attention and MLP add to the stream.
    residual: `double` is a published quirk, x <- 2x + attention + mlp.
    tied: the head's weight is the embedding's.
    init: `uniform` U(±1/sqrt(fan in)), weights and biases; `normal` N(0, init_std), biases 0; `gpt2` the same with
    what writes to the stream divided by sqrt(2 * layers); `xavier` N(0, 2 / (fan in + fan out)) with tables
    N(0, init_std); `truncated` cut at 3 standard deviations of 1/sqrt(fan in), or of init_std where given.
    init_std: none means 0.02, except for `truncated`.
    """

    kind: Literal["transformer"] = "transformer"
    heads: PositiveInt = 4
    kv_heads: PositiveInt | None = None
    positions: Literal["learned", "rotary", "shortformer", "none"] = "learned"
    rotary_base: PositiveFloat = 10_000.0
    rotary_scale: PositiveFloat = 1.0
    attention_bias: bool = False
    output_projection: bool = True
    output_bias: bool = False
    residual: Literal["standard", "double"] = "standard"

    @model_validator(mode="after")
    def _possible(self) -> TransformerConfig:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is not divisible by heads = {self.heads}")
        if self.heads % self.key_heads:
            raise ValueError(f"heads = {self.heads} is not divisible by kv_heads = {self.kv_heads}")
        if self.positions == "rotary" and self.head_width % 2:
            raise ValueError(f"positions = rotary needs an even head width; width / heads = {self.head_width}")
        if self.output_bias and not self.output_projection:
            raise ValueError("output_bias = true needs output_projection = true")
        return self

    def idle(self) -> dict[str, str]:
        if self.positions == "rotary":
            return super().idle()
        why = f"model.positions = {self.positions} turns nothing"
        return super().idle() | {"rotary_base": why, "rotary_scale": why}

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def key_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    def build(self, interface: Interface) -> Transformer:
        """The model, its weights not yet drawn (`initialise` draws them). Raises UserError where they do not fit."""
        from inlearn.models.transformer import Transformer

        return Transformer(self, interface)
