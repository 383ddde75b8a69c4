"""Tokens of examples: laid out by hand, there and back."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.studies.regression import encoding


def test_layout_by_hand():
    xs = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    ys = torch.tensor([[5.0, 6.0]])
    tokens = [[0.0, 1.0, 2.0], [5.0, 0.0, 0.0], [0.0, 3.0, 4.0], [6.0, 0.0, 0.0]]
    assert encoding.encode(xs, ys).tolist() == [tokens]
    assert encoding.encode_asked(xs, ys).tolist() == [tokens[:-1]]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5))
def test_decoding_undoes_encoding(rows: int, examples: int, dimension: int):
    xs = torch.randn(rows, examples, dimension, generator=torch.Generator().manual_seed(rows))
    ys = torch.randn(rows, examples, generator=torch.Generator().manual_seed(examples))
    tokens = encoding.encode(xs, ys)
    assert tokens.shape == (rows, 2 * examples, dimension + 1)
    back = encoding.decode(tokens)
    assert torch.equal(back[0], xs) and torch.equal(back[1], ys)
    assert torch.equal(encoding.encode_asked(xs, ys), tokens[:, :-1])


def test_answers_are_read_at_x_tokens_and_inputs_at_y_tokens():
    outputs = torch.arange(2 * 6 * 3).view(2, 6, 3)
    assert encoding.decode_answers(outputs).tolist() == [[0, 6, 12], [18, 24, 30]]
    assert encoding.decode_answers(outputs[:, :5, :1]).tolist() == [[0, 6, 12], [18, 24, 30]]
    assert encoding.decode_inputs(outputs)[0].tolist() == [[4, 5], [10, 11], [16, 17]]


def test_positions_count_examples_from_zero():
    assert encoding.positions(5).tolist() == [0, 0, 1, 1, 2]
