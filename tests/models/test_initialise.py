from __future__ import annotations

import math

import pytest
import torch
from transformer_cases import CLASSES, TOKENS, VECTORS, Seeds, config

from inlearn.core.spaces import Interface, Tokens, Vectors
from inlearn.models.flat import FlatParameters
from inlearn.models.initialise import Normal, Truncated, Uniform, initialise, laws_of_leaves
from inlearn.models.transformer import Transformer
from inlearn.models.transformer_config import TransformerConfig

KEY = torch.tensor(12345)
PAPER = config(width=64, heads=4, mlp=64, activation="relu", residual="double")


def drawn(settings: TransformerConfig, interface: Interface, init: int = 0) -> Transformer:
    model = settings.build(interface)
    initialise(model, Seeds(init))
    return model


def test_norm_of_the_papers_initial_weights() -> None:
    """24.93 from the variances bound²/3 of each uniform matrix and ones in the norms; five seeds within 0.1."""
    interface = Interface(Vectors(5), Vectors(5, answers=1), 16)
    per_block = (4 * 64 * 64 + 2 * 64 * 64 + 2 * 64) / 64 / 3 + 2 * 64
    theory = math.sqrt(64 * 5 / 5 / 3 + 64 * 16 / 16 / 3 + 2 * per_block + 64 + (64 * 5 + 5) / 64 / 3)
    assert theory == pytest.approx(24.93, abs=0.005)
    for init in range(5):
        weights = FlatParameters(drawn(PAPER, interface, init)).values.detach()
        assert float(weights.norm()) == pytest.approx(theory, abs=0.1)


def test_another_layer_moves_no_other_weights() -> None:
    small, large = drawn(config(layers=1), VECTORS), drawn(config(layers=3, init="uniform"), VECTORS)
    grown = dict(large.named_parameters())
    for name, parameter in small.named_parameters():
        assert torch.equal(parameter, grown[name])
    assert not torch.equal(grown["blocks.0.attention.q.weight"], grown["blocks.1.attention.q.weight"])


def test_weights_depend_on_the_seed_and_on_nothing_global() -> None:
    before = torch.get_rng_state()
    first = drawn(config(), TOKENS)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    again, other = drawn(config(), TOKENS), drawn(config(), TOKENS, init=1)
    torch.set_rng_state(before)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_a_model_not_initialised_is_loudly_so() -> None:
    model = config(norm="rmsnorm").build(TOKENS)
    assert all(parameter.isnan().all() for parameter in model.parameters())


def test_every_scheme_sets_every_parameter_to_its_spread() -> None:
    words = Interface(Tokens(500), Tokens(500), 100)
    shape = {"width": 128, "heads": 4, "mlp": 256, "attention_bias": True, "output_bias": True}
    expected = {  # embedding, positions, q, attention.o, mlp.down, head
        "uniform": (1, 300**-0.5, 384**-0.5, 384**-0.5, 768**-0.5, 384**-0.5),
        "normal": (0.02,) * 6,
        "gpt2": (0.02, 0.02, 0.02, 0.01, 0.01, 0.02),
        "xavier": (0.02, 0.02, math.sqrt(1 / 128), math.sqrt(1 / 128), math.sqrt(2 / 384), math.sqrt(2 / 628)),
        "truncated": tuple(0.98658 * x for x in (128**-0.5, 128**-0.5, 128**-0.5, 128**-0.5, 1 / 16, 128**-0.5)),
    }  # fmt: skip
    for scheme, spreads in expected.items():
        model = drawn(config(**shape, init=scheme), words)
        block = model.blocks[1]
        leaves = (model.embedding, model.table, block.attention.q, block.attention.o, block.mlp.down, model.head)
        for leaf, spread in zip(leaves, spreads, strict=True):
            weight = leaf.weight.detach()
            assert float(weight.std()) == pytest.approx(spread, rel=0.03), (scheme, leaf)
            assert abs(float(weight.mean())) < 4 * spread / math.sqrt(weight.numel())
        for bias in (block.attention.q.bias, block.mlp.up.bias, model.head.bias):
            assert (bias.std() > 0.01) if scheme == "uniform" else (bias == 0).all()
        assert (block.mlp_norm.weight == 1).all() and (block.mlp_norm.bias == 0).all()


def test_a_given_standard_deviation_replaces_the_scheme_s() -> None:
    for scheme in ("normal", "gpt2", "truncated"):
        model = drawn(config(width=64, init=scheme, init_std=0.3), CLASSES)
        assert float(model.blocks[0].attention.q.weight.detach().std()) == pytest.approx(0.3, rel=0.05)


def test_laws_draw_their_distributions() -> None:
    uniform, normal, cut = (law.draw(KEY, (1000, 50)) for law in (Uniform(0.5), Normal(2.0), Truncated(1.0, cut=1.0)))
    assert float(uniform.abs().max()) < 0.5 and float(uniform.var()) == pytest.approx(1 / 12, rel=0.02)
    assert float(normal.std()) == pytest.approx(2, rel=0.02)
    # Variance of a normal cut at one standard deviation: 1 - 2 φ(1) / (Φ(1) - Φ(-1)) = 0.29112.
    assert float(cut.abs().max()) <= 1 and float(cut.var()) == pytest.approx(0.29112, rel=0.02)


def test_a_parameter_without_a_law_is_an_error() -> None:
    with pytest.raises(TypeError, match="GRUCell"):
        laws_of_leaves(torch.nn.Sequential(torch.nn.GRUCell(2, 2)), "uniform")
