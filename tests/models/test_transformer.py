from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_cases import CASES, CLASSES, TOKENS, VECTORS, built, config, slow_outputs, some_inputs

from inlearn.core.configuration import Config, resolve
from inlearn.core.errors import UserError
from inlearn.core.spaces import Interface, Tokens, Vectors
from inlearn.models.transformer_config import TransformerConfig

every_case = pytest.mark.parametrize("case", CASES)


def parameters(settings: TransformerConfig, interface: Interface) -> int:
    return sum(p.numel() for p in settings.build(interface).parameters())


def regression(dim: int, examples: int) -> Interface:
    return Interface(Vectors(dim + 1), Vectors(dim + 1, answers=1), 2 * examples)


# ---------------------------------------------------------------- values


@every_case
def test_outputs_equal_the_slow_second_implementation(case: str) -> None:
    model, inputs = built(case), some_inputs(case, 3, 7)
    torch.testing.assert_close(model(inputs)[0], slow_outputs(model, inputs), rtol=1e-11, atol=1e-11)


@every_case
def test_fused_attention_equals_the_slow_one_too(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inlearn.models.attention.FEW_KEYS", 0)
    model, inputs = built(case), some_inputs(case, 3, 7)
    torch.testing.assert_close(model(inputs)[0], slow_outputs(model, inputs), rtol=1e-11, atol=1e-11)


@every_case
def test_later_inputs_change_no_earlier_output(case: str) -> None:
    model, inputs, other = built(case), some_inputs(case, 3, 7), some_inputs(case, 3, 7, seed=1)
    for cut in (1, 4, 6):
        mixed = torch.cat((inputs[:, :cut], other[:, cut:]), 1)
        before, after = model(inputs)[0], model(mixed)[0]
        assert torch.equal(before[:, :cut], after[:, :cut])
        assert not torch.equal(before[:, cut], after[:, cut])


@every_case
def test_right_padding_changes_nothing(case: str) -> None:
    model, inputs = built(case), some_inputs(case, 3, 7)
    padded = torch.cat((inputs, torch.zeros_like(inputs[:, :4])), 1)
    torch.testing.assert_close(model(padded)[0][:, :7], model(inputs)[0], rtol=1e-12, atol=1e-12)


def test_rotary_scores_see_only_the_distance() -> None:
    """Equal tokens everywhere: with rotary positions the values are equal too, so no position can be told."""
    model = built("llama")
    outputs = model(torch.full((1, 9), 3))[0]
    torch.testing.assert_close(outputs, outputs[:, :1].expand_as(outputs), rtol=1e-11, atol=1e-11)


def test_rotary_scores_move_with_the_sequence() -> None:
    """Scores of the first layer between positions i, j depend on the two tokens and i - j alone."""
    from inlearn.models.activations import capture

    model, ids = built("turns"), some_inputs("turns", 2, 5)
    with capture(model, ["blocks.0.attention.scores"]) as seen:
        model(ids)
        early = seen["blocks.0.attention.scores"]
        model(torch.cat((some_inputs("turns", 2, 4, seed=5), ids), 1))
        late = seen["blocks.0.attention.scores"][..., 4:, 4:]
    torch.testing.assert_close(early, late, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------- scored positions


@every_case
@pytest.mark.parametrize(
    "scored",
    [range(21), [0, 2, 4, 7, 9, 11, 14, 16, 18], [6, 13, 20], [1, 8, 9, 12], [0, 3, 5, 7, 10, 12, 14, 17, 20], [2]],
    ids=["all", "every_second", "last", "uneven", "columns_differ", "one"],
)  # fmt: skip
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_scored_outputs_and_gradients_equal_the_full_ones(
    case: str, scored: list[int], dtype: torch.dtype, tolerance: float
) -> None:
    model, inputs = built(case, dtype=dtype), some_inputs(case, 3, 7, dtype=dtype)
    index = torch.tensor(list(scored))
    full, part = model(inputs)[0].flatten(0, 1)[index], model(inputs, scored=index)[0]
    torch.testing.assert_close(part, full, rtol=tolerance, atol=5 * tolerance)
    wanted = torch.autograd.grad(full.square().sum(), list(model.parameters()), materialize_grads=True)
    given = torch.autograd.grad(part.square().sum(), list(model.parameters()), materialize_grads=True)
    for a, b in zip(given, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=100 * tolerance, atol=100 * tolerance)


@every_case
def test_nothing_scored_still_leaves_the_whole_state(case: str) -> None:
    model, inputs = built(case), some_inputs(case, 3, 7)
    outputs, state = model(inputs[:, :4], scored=torch.tensor([], dtype=torch.int64))
    assert outputs.shape == (0, model.head.weight.shape[0])
    torch.testing.assert_close(model(inputs[:, 4:], state)[0], model(inputs)[0][:, 4:], rtol=1e-12, atol=1e-12)


@given(st.lists(st.integers(0, 34), min_size=1, max_size=35, unique=True))
@settings(max_examples=40, deadline=None)
def test_any_set_of_positions_may_be_scored(positions: list[int]) -> None:
    model, inputs = built("regression"), some_inputs("regression", 5, 7)
    index = torch.tensor(sorted(positions))
    torch.testing.assert_close(
        model(inputs, scored=index)[0], model(inputs)[0].flatten(0, 1)[index], rtol=1e-11, atol=1e-11
    )


def test_a_state_without_its_tail_cannot_be_continued() -> None:
    model, inputs = built("regression"), some_inputs("regression", 2, 6)
    state = model(inputs, scored=torch.tensor([0, 2, 4, 6, 8, 10]))[1]
    with pytest.raises(ValueError, match="lacks the 1 positions"):
        model(inputs, state)


# ---------------------------------------------------------------- parameter counts


@pytest.mark.parametrize(
    ("fields", "interface", "count"),
    [
        ({"width": 64, "heads": 4, "mlp": 64}, regression(4, 8), 51_717),
        ({"width": 64, "heads": 4, "mlp": 64}, regression(4, 16), 52_741),
        ({"width": 128, "layers": 8, "mlp": 128, "output_projection": False}, regression(8, 16), 668_169),
        ({"width": 128, "layers": 8, "mlp": 128}, regression(8, 16), 799_241),
    ],
)
def test_regression_parameter_counts(fields: dict[str, object], interface: Interface, count: int) -> None:
    assert parameters(config(**fields), interface) == count


def test_language_parameter_counts() -> None:
    words = Interface(Tokens(5000), Tokens(5000), 1024)
    shape = {
        "width": 256,
        "heads": 8,
        "mlp": 0,
        "positions": "shortformer",
        "attention_bias": True,
        "output_bias": True,
    }
    assert parameters(config(**shape, layers=2), words) == 3_355_016
    assert parameters(config(**shape, layers=1), words) == 3_091_336


def test_category_grid_and_automaton_parameter_counts() -> None:
    llama = {"width": 64, "heads": 8, "mlp": 128, "norm": "rmsnorm", "activation": "swiglu", "positions": "rotary",
             "mlp_bias": False, "head_bias": False}  # fmt: skip
    assert parameters(config(**llama, layers=4), Interface(Tokens(1607), Tokens(1607), 320)) == 370_112
    assert parameters(config(**llama, layers=12), Interface(Tokens(24), Tokens(24), 200)) == 496_192
    rotary = {"width": 64, "heads": 4, "mlp": 64, "positions": "rotary", "attention_bias": True, "output_bias": True}
    assert parameters(config(**rotary), Interface(Tokens(21), Tokens(8), 512)) == 52_424


def test_mixture_parameter_count() -> None:
    words = Interface(Tokens(32_000), Tokens(32_000), 100)
    shape = {"width": 128, "heads": 2, "mlp": None, "tied": True, "attention_bias": True, "output_bias": True}
    assert parameters(config(**shape, head_bias=False), words) == 4_505_600


@pytest.mark.parametrize(("width", "count"), [(4, 2_612), (8, 6_248), (64, 164_672), (128, 591_488)])
def test_fact_parameter_counts(width: int, count: int) -> None:
    shape = {"norm": "rmsnorm", "activation": "swiglu", "positions": "rotary", "mlp_bias": False, "head_bias": False}
    assert parameters(config(**shape, width=width, mlp=None), Interface(Tokens(260), Tokens(260), 200)) == count


@given(
    heads=st.integers(1, 3), head=st.integers(1, 4), D=st.integers(1, 6), K=st.integers(1, 9), L=st.integers(1, 3),
    m=st.integers(1, 9), projection=st.booleans(),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_parameter_count_formula(heads: int, head: int, D: int, K: int, L: int, m: int, projection: bool) -> None:
    C = heads * head
    settings = config(width=C, heads=heads, layers=L, mlp=m, output_projection=projection)
    block = 3 * C**2 + projection * C**2 + 2 * C * m + m + C + 4 * C
    assert parameters(settings, regression(D, K)) == C * (D + 1) + 2 * K * C + L * block + 2 * C + (C + 1) * (D + 1)


# ---------------------------------------------------------------- refusals


class Root(Config):
    model: TransformerConfig


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 10, "heads": 4}, ["width = 10", "heads = 4"]),
        ({"width": 12, "heads": 4, "kv_heads": 3}, ["heads = 4", "kv_heads = 3"]),
        ({"width": 12, "heads": 4, "positions": "rotary"}, ["rotary", "= 3"]),
        ({"output_projection": False, "output_bias": True}, ["output_bias", "output_projection"]),
        ({"init": "uniform", "init_std": 0.1}, ["init_std = 0.1", "uniform"]),
    ],
)
def test_impossible_shapes_are_refused_by_key_and_value(fields: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        resolve(Root, {"model": fields})
    assert all(word in str(caught.value) for word in ["model", *words])


def test_ties_and_biases_that_do_not_fit_the_interface_are_refused() -> None:
    for interface in (VECTORS, CLASSES):
        with pytest.raises(UserError, match=r"model\.tied = true"):
            config(tied=True).build(interface)
    with pytest.raises(UserError, match=r"model\.embed_bias = true"):
        config(embed_bias=True).build(TOKENS)


@pytest.mark.parametrize("case", ["regression", "shortformer"])
def test_a_sequence_beyond_the_learned_table_is_refused(case: str) -> None:
    model, inputs = built(case), some_inputs(case, 2, 12)
    state = model(inputs)[1]
    with pytest.raises(UserError, match=r"13 positions.*model\.positions.*12"):
        model(inputs[:, :1], state)
    with pytest.raises(UserError, match="13 positions"):
        model(torch.cat((inputs, inputs[:, :1]), 1))


def test_the_configuration_file_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import inlearn.models.transformer_config, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("case", ["regression", "llama", "shortformer"])
def test_second_derivatives_exist(case: str) -> None:
    """A Hessian-vector product against the central difference of gradients: curvature analyses need it."""
    model, inputs = built(case), some_inputs(case, 2, 5)
    parameters = list(model.parameters())
    direction = [torch.sin(torch.arange(p.numel(), dtype=p.dtype)).view_as(p) for p in parameters]

    def gradients(graph: bool) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(model(inputs)[0].square().sum(), parameters, create_graph=graph)

    product = sum((g * d).sum() for g, d in zip(gradients(True), direction, strict=True))
    exact = torch.autograd.grad(product, parameters, materialize_grads=True)
    sides = []
    for step in (1e-6, -2e-6):  # to +1e-6, then on to -1e-6
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += step * d
        sides.append(gradients(False))
    for e, up, down in zip(exact, *sides, strict=True):
        torch.testing.assert_close(e, (up - down) / 2e-6, rtol=1e-4, atol=1e-4 * float(e.abs().max()) + 1e-6)
