from __future__ import annotations

import pytest
import torch
from transformer_cases import CASES, built, some_inputs, stacked

from inlearn.core.errors import UserError
from inlearn.models.activations import capture, intervene, matching, names

every_case = pytest.mark.parametrize("case", CASES)


def test_the_vocabulary() -> None:
    assert set(names(built("regression"))) == {
        "embed", "positions", "final", "outputs",
        *(f"blocks.{layer}.{name}" for layer in (0, 1) for name in (
            "input", "middle", "output", "mlp.hidden", "mlp.output",
            *(f"attention.{part}" for part in ("query", "key", "value", "scores", "pattern", "mixed", "output")))),
    }  # fmt: skip
    assert "positions" not in names(built("llama"))
    assert not [name for name in names(built("shortformer")) if "mlp" in name]


@every_case
def test_shapes_and_relations_of_what_is_captured(case: str) -> None:
    model, inputs = built(case), some_inputs(case, 3, 7)
    with capture(model, ["*"]) as seen:
        outputs = model(inputs)[0]
    c = model.config
    assert list(seen) and set(seen) == set(names(model))
    for layer in range(c.layers):
        here = {name.removeprefix(f"blocks.{layer}."): value for name, value in seen.items()}
        assert here["attention.query"].shape == (3, 7, c.heads, c.head_width)
        assert here["attention.key"].shape == (3, 7, c.key_heads, c.head_width)
        pattern, scores = here["attention.pattern"], here["attention.scores"]
        assert pattern.shape == (3, c.heads, 7, 7)
        torch.testing.assert_close(pattern.sum(-1), torch.ones(3, c.heads, 7, dtype=torch.float64))
        torch.testing.assert_close(pattern, scores.softmax(-1))
        assert (pattern.triu(1) == 0).all()
        value = here["attention.value"].repeat_interleave(c.heads // c.key_heads, 2)
        torch.testing.assert_close(here["attention.mixed"], torch.einsum("nhts,nshd->nthd", pattern, value))
        stream, added = here["input"], here["attention.output"]
        torch.testing.assert_close(here["middle"], stream + added)
        mlp = here.get("mlp.output", torch.zeros_like(stream))
        factor = 2 if c.residual == "double" else 1
        torch.testing.assert_close(here["output"], factor * stream + added + mlp)
    assert torch.equal(seen["outputs"], outputs)
    if "positions" in seen:
        assert torch.equal(seen["positions"], model.table.weight[:7])
    if c.positions == "learned":
        torch.testing.assert_close(seen["blocks.0.input"], seen["embed"] + seen["positions"])


@every_case
def test_looking_and_identity_edits_change_nothing(case: str) -> None:
    model, inputs = built(case), some_inputs(case, 3, 7)
    plain = model(inputs)[0]
    with capture(model, ["*"]), intervene(model, {"*": lambda x: x}):
        torch.testing.assert_close(model(inputs)[0], plain, rtol=1e-12, atol=1e-12)
    assert torch.equal(model(inputs)[0], plain)
    assert not model._hooked


def test_scored_outputs_while_everything_is_seen() -> None:
    model, inputs, scored = built("regression"), some_inputs("regression", 3, 7), torch.tensor([0, 2, 9])
    plain = model(inputs, scored=scored)[0]
    with capture(model, ["blocks.1.mlp.hidden", "outputs"]) as seen:
        torch.testing.assert_close(model(inputs, scored=scored)[0], plain, rtol=1e-12, atol=1e-12)
    assert seen["blocks.1.mlp.hidden"].shape == (3, 7, 10)
    assert seen["outputs"].shape == (3, 7, 5)


def test_edits_act_where_they_say_and_captures_see_them() -> None:
    model, inputs = built("regression"), some_inputs("regression", 3, 7)
    half = {"blocks.0.attention.pattern": lambda x: x / 2}
    with capture(model, ["blocks.0.attention.*"]) as before:
        model(inputs)
    with capture(model, ["blocks.0.attention.*"]) as seen, intervene(model, half):
        edited = model(inputs)[0]
    assert torch.equal(seen["blocks.0.attention.pattern"], before["blocks.0.attention.pattern"] / 2)
    torch.testing.assert_close(seen["blocks.0.attention.mixed"], before["blocks.0.attention.mixed"] / 2)
    with intervene(model, {"blocks.0.attention.mixed": lambda x: x / 2}):
        torch.testing.assert_close(model(inputs)[0], edited, rtol=1e-12, atol=1e-12)


def test_editing_scores_cuts_a_key_off() -> None:
    model, inputs = built("llama"), some_inputs("llama", 3, 7)

    def forget_first(scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(-1, torch.tensor([0]), -1e9)

    with intervene(model, {"blocks.*.attention.scores": forget_first}), capture(model, ["*.pattern"]) as seen:
        model(inputs)
    for pattern in seen.values():
        assert (pattern[:, :, 1:, 0] == 0).all()
    assert len(seen) == 2


def test_zeroed_positions_are_as_good_as_none() -> None:
    model, inputs = built("shortformer"), some_inputs("shortformer", 3, 7)
    with intervene(model, {"positions": torch.zeros_like}):
        ablated = model(inputs)[0]
    with torch.no_grad():
        model.table.weight.zero_()
    torch.testing.assert_close(ablated, model(inputs)[0], rtol=1e-12, atol=1e-12)


def test_inner_edits_run_first() -> None:
    model, inputs = built("llama"), some_inputs("llama", 1, 3)
    with (
        intervene(model, {"outputs": lambda x: x * 0 + 5}),
        intervene(model, {"outputs": lambda x: x * 0 + 1}),
        capture(model, ["outputs"]) as seen,
    ):
        model(inputs)
    assert (seen["outputs"] == 5).all()


def test_gradients_reach_captured_activations() -> None:
    model, inputs = built("llama"), some_inputs("llama", 2, 4)
    with capture(model, ["blocks.0.output"]) as seen:
        outputs = model(inputs)[0]
    (gradient,) = torch.autograd.grad(outputs[:, 2].sum(), seen["blocks.0.output"])
    assert gradient[:, :3].abs().sum() > 0
    assert (gradient[:, 3] == 0).all()


def test_a_stack_shows_its_members() -> None:
    model, solo = stacked("llama", 3)
    inputs = torch.stack([some_inputs("llama", 5, 7, seed=e) for e in range(3)])
    with capture(model, ["*"]) as together:
        model(inputs)
    with capture(solo[1], ["*"]) as alone:
        solo[1](inputs[1])
    for name, value in alone.items():
        torch.testing.assert_close(together[name][1], value, rtol=1e-11, atol=1e-11)


def test_unknown_names_name_the_nearest() -> None:
    model = built("regression")
    with pytest.raises(
        UserError, match=r"'blocks\.0\.atention\.pattern'; did you mean 'blocks\.0\.attention\.pattern'"
    ):
        matching(model, ["blocks.0.atention.pattern"])
    with pytest.raises(UserError), capture(model, ["embed", "blocks.7.*"]):
        pass
    assert not model._hooked
