"""What LSTM, GRU and vanilla RNN have in common. No torch here."""

from __future__ import annotations

from typing import ClassVar, Literal

from inlearn.models.options import ModelConfig


class RecurrentConfig(ModelConfig):
    """Embedding, recurrent layers of one width upon each other, head.

    dropout: of the embedded inputs and of every layer's output, the last one's too.
    init: of embedding and head. recurrent_init: of the layers, their weights taken as the one matrix of all gates:
    `orthogonal` W_hh with W_hh^T W_hh = 1 and W_ih Xavier-uniform, U(±sqrt(6 / (fan in + fan out))), biases 0;
    `uniform` U(±1/sqrt(width)), biases too, torch's own.
    """

    SHAPELESS: ClassVar[frozenset[str]] = ModelConfig.SHAPELESS | {"recurrent_init"}
    head_bias: bool = False
    init: Literal["uniform", "normal", "gpt2", "xavier", "truncated"] = "xavier"
    recurrent_init: Literal["orthogonal", "uniform"] = "orthogonal"
