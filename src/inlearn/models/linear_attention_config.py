"""What a linear-attention model can be asked to be. No torch here; the code is in linear_attention.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt, model_validator

from inlearn.models.options import ResidualConfig

if TYPE_CHECKING:
    from inlearn.core.spaces import Interface
    from inlearn.models.sequence import ResidualModel


class LinearAttentionConfig(ResidualConfig):
    """Attention without softmax, whose past is one matrix a head (Katharopoulos et al. 2020, arXiv 2006.16236).

    width: of the residual stream, divided among `heads`.
    feature_map: `elu` takes queries and keys through elu(x) + 1 and divides what is read by phi(q) · sum phi(k);
    `identity` takes them as they are, scales scores by 1/sqrt(head width) and divides by nothing: the linear
    self-attention of von Oswald et al. 2023 (arXiv 2212.07677), which has no such scale.
    attention_bias: of queries, keys and values. output_bias: of the projection of what is read.
    """

    kind: Literal["linear_attention"] = "linear_attention"
    heads: PositiveInt = 4
    feature_map: Literal["elu", "identity"] = "elu"
    attention_bias: bool = False
    output_bias: bool = False

    @model_validator(mode="after")
    def _possible(self) -> LinearAttentionConfig:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is not divisible by heads = {self.heads}")
        return self

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    def build(self, interface: Interface) -> ResidualModel:
        """The model, its weights not yet drawn (`initialise` draws them). Raises UserError where they do not fit."""
        from inlearn.models.linear_attention import LinearAttention
        from inlearn.models.sequence import ResidualModel

        return ResidualModel(self, interface, lambda: LinearAttention(self))
