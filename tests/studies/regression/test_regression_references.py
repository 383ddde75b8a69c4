"""Ideal learners against slow, obvious second implementations, closed forms and limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inlearn.core.draws import Address
from inlearn.lab.config import Seeds
from inlearn.studies.regression import references as r
from inlearn.studies.regression.config import RegressionConfig
from inlearn.studies.regression.quantities import ridge_floor, ridge_floor_at, ridge_floors, ridge_loss, zero_loss
from inlearn.studies.regression.tasks import Gaussian, Source, task_vectors

ALL_SEEDS = Seeds().following(1)
EVAL = Address(ALL_SEEDS, "eval")


def drawn(rows: int, examples: int = 8, dimension: int = 4, noise: float = 0.125) -> tuple[Tensor, Tensor]:
    sequences = Source(Gaussian(dimension), examples, dimension, noise).sequences(EVAL, rows)
    return sequences.xs.double(), sequences.ys.double()


def ridge_by_solving(xs: Tensor, ys: Tensor, regulariser: float) -> Tensor:
    answers = torch.zeros_like(ys)
    for n in range(len(xs)):
        for k in range(1, xs.shape[1]):
            x, y = xs[n, :k], ys[n, :k]
            w = torch.linalg.solve(x.T @ x + regulariser * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
            answers[n, k] = w @ xs[n, k]
    return answers


def dmmse_by_enumeration(xs: Tensor, ys: Tensor, vectors: Tensor, noise_variance: float) -> Tensor:
    answers = torch.zeros_like(ys)
    for n in range(len(xs)):
        for k in range(xs.shape[1]):
            fits = [
                -sum((ys[n, j] - w @ xs[n, j]).item() ** 2 for j in range(k)) / (2 * noise_variance) for w in vectors
            ]
            odds = torch.tensor(fits, dtype=torch.float64).softmax(0)
            answers[n, k] = (odds @ vectors) @ xs[n, k]
    return answers


# ---------------------------------------------------------------- ridge


@pytest.mark.parametrize("examples, dimension, regulariser", [(8, 4, 0.125), (6, 1, 2.0), (5, 8, 0.25), (1, 3, 1.0)])
def test_ridge_is_the_solution_of_every_prefix(examples: int, dimension: int, regulariser: float):
    xs, ys = drawn(20, examples, dimension)
    assert torch.allclose(r.ridge_predictions(xs, ys, regulariser), ridge_by_solving(xs, ys, regulariser), atol=1e-10)


@pytest.mark.parametrize("gain", [1e-2, 1e4])
def test_ridge_holds_under_extreme_gains(gain: float):
    xs, ys = drawn(30)
    ours, slow = r.ridge_predictions(gain * xs, gain * ys, 0.125), ridge_by_solving(gain * xs, gain * ys, 0.125)
    assert torch.allclose(ours, slow, rtol=1e-5, atol=1e-5 * gain)


def test_first_ridge_answer_is_zero_and_the_second_has_one_example():
    xs, ys = drawn(50)
    answers = r.ridge_predictions(xs, ys, 0.125)
    assert not answers[:, 0].any()
    second = ys[:, 0] * (xs[:, 0] * xs[:, 1]).sum(-1) / (xs[:, 0].square().sum(-1) + 0.125)
    assert torch.allclose(answers[:, 1], second, atol=1e-12)


def test_ridge_does_not_depend_on_how_rows_are_blocked():
    xs, ys = drawn(9000, 4, 3)
    assert torch.equal(r.ridge_predictions(xs, ys, 0.1)[8990:], r.ridge_predictions(xs[8990:], ys[8990:], 0.1))


def test_ridge_without_noise_is_the_shortest_fit():
    xs, ys = drawn(200, 9, 4, 0.0)
    xs[:, 2] = 2 * xs[:, 0]  # an example that adds no direction
    ys[:, 2] = 2 * ys[:, 0]
    answers = r.ridge_predictions(xs, ys, 0.0)
    for k in range(1, 9):
        w = torch.linalg.pinv(xs[:, :k], rtol=1e-9) @ ys[:, :k, None]
        difference = (answers[:, k] - (w.squeeze(-1) * xs[:, k]).sum(-1)).abs()
        # Labels are float32, so a nearly singular prefix magnifies their rounding in either method.
        assert difference.median() < 1e-6 and difference.max() < 1e-2
    assert (answers[:, 6:] - ys[:, 6:]).abs().median() < 1e-5


def test_ridge_in_float32_is_near():
    xs, ys = drawn(100)
    single = r.ridge_predictions(xs, ys, 0.125, torch.float32)
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), r.ridge_predictions(xs, ys, 0.125), atol=1e-3)


# ---------------------------------------------------------------- dMMSE


@pytest.mark.parametrize("count, noise", [(1, 0.125), (5, 0.125), (12, 2.0)])
def test_dmmse_is_the_posterior_mean_by_enumeration(count: int, noise: float):
    xs, ys = drawn(10, 6, 3)
    vectors = task_vectors(ALL_SEEDS, count, 3).double()
    ours, slow = r.dmmse_predictions(xs, ys, vectors, noise), dmmse_by_enumeration(xs, ys, vectors, noise)
    assert torch.allclose(ours, slow, atol=1e-11)


def test_first_dmmse_answer_is_the_task_mean():
    xs, ys = drawn(40)
    vectors = task_vectors(ALL_SEEDS, 33, 4).double()
    mean = r.linear_predictions(xs, vectors.mean(0))
    assert torch.allclose(r.dmmse_predictions(xs, ys, vectors, 0.125)[:, 0], mean[:, 0], atol=1e-13)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 7), st.integers(1, 40), st.sampled_from([0.0, 2.0**-11, 0.125]))
def test_any_cap_of_memory_gives_the_same_answers(memory: int, rows: int, count: int, noise: float):
    xs, ys = drawn(rows, 5, 3, noise)
    vectors = task_vectors(ALL_SEEDS, count, 3)
    whole = r.dmmse_predictions(xs, ys, vectors, noise)
    assert torch.allclose(r.dmmse_predictions(xs, ys, vectors, noise, memory), whole, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("noise", [0.0, 1e-30, 2.0**-11])
def test_dmmse_with_little_noise_finds_the_vector(noise: float):
    vectors = task_vectors(ALL_SEEDS, 64, 4)
    sequences = Source(Gaussian(4), 8, 4, 0.0).sequences(EVAL, 64)
    ys = (sequences.xs * vectors[:, None]).sum(-1)  # row n has vector n
    answers = r.dmmse_predictions(sequences.xs, ys, vectors, noise)
    assert torch.isfinite(answers).all()
    assert torch.allclose(answers[:, 4:], ys[:, 4:].double(), atol=1e-5)


def test_dmmse_without_noise_shares_ties_evenly():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 2.0], [3.0, 7.0]])
    xs = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    ys = torch.tensor([[1.0, 2.0, 2.0]])  # the first example leaves vectors 0 and 1
    assert r.dmmse_predictions(xs, ys, vectors, 0.0)[0].tolist() == pytest.approx([5 / 3, 1.0, 2.0], abs=1e-12)


def test_dmmse_without_noise_survives_labels_that_no_vector_fits():
    xs, ys = drawn(20)
    for labels in (ys, torch.zeros_like(ys)):
        assert torch.isfinite(r.dmmse_predictions(xs, labels, task_vectors(ALL_SEEDS, 5, 4), 0.0)).all()


def test_dmmse_of_many_vectors_approaches_ridge():
    xs, ys = drawn(400, 4, 2, 0.5)
    near = r.dmmse_predictions(xs, ys, task_vectors(ALL_SEEDS, 1 << 14, 2), 0.5)
    assert (near - r.ridge_predictions(xs, ys, 0.5)).square().mean().item() < 2e-3


# ---------------------------------------------------------------- the others


def test_first_example_projects_on_one_direction():
    xs, ys = drawn(30)
    answers = r.first_example_predictions(xs, ys)
    assert not answers[:, 0].any()
    for n in range(30):
        w = ys[n, 0] * xs[n, 0] / (xs[n, 0] @ xs[n, 0])
        assert torch.allclose(answers[n, 1:], xs[n, 1:] @ w, atol=1e-12)


def test_references_answer_at_scored_positions_in_float64():
    study = RegressionConfig.model_validate({"task": {"count": 6}}).build(ALL_SEEDS)
    assert [x.name for x in study.references("train")] == ["ridge", "dmmse", "task_mean", "zero", "first_example"]
    assert [x.mechanism for x in study.references("train")] == ["context", "weights", "weights", "none", "context"]
    for name, task in study.tasks.items():
        batch = task.sample(EVAL, 96)
        for reference in study.references(name):
            answers = reference.predict(batch)
            assert answers.shape == (len(batch.scored), 1) and answers.dtype == torch.float64
    batch = study.tasks["train"].sample(EVAL, 5)
    ridge = study.references("train")[0].predict(batch).view(5, 8)
    assert torch.equal(ridge, r.ridge_predictions(batch.latents.xs, batch.latents.ys, 0.125))


def test_a_gaussian_prior_has_nothing_to_know_by_heart():
    study = RegressionConfig().build(ALL_SEEDS)
    assert [x.name for x in study.references("train")] == ["ridge", "zero", "first_example"]


def test_the_prior_variance_sets_the_regulariser():
    config = {"task": {"noise_variance": 0.5, "prior_variance": 4.0}}
    study = RegressionConfig.model_validate(config).build(ALL_SEEDS)
    assert study.references("train")[0].regulariser == 0.125
    wrong = r.Ridge(0.5)
    batch = study.tasks["train"].sample(EVAL, 4000)
    target = batch.at_scored(batch.targets)
    errors = [(x.predict(batch) - target).square().mean().item() for x in (study.references("train")[0], wrong)]
    assert errors[0] < errors[1]


# ---------------------------------------------------------------- floors

PUBLISHED_FLOORS = (4.119, 3.163, 2.275, 1.485, 0.894, 0.574, 0.409, 0.322)
LATER_FLOORS = (0.271, 0.240, 0.219, 0.204, 0.195, 0.185, 0.179, 0.174)


def test_floors_agree_with_the_published_estimates():
    assert ridge_floor(4, 8, 0.125) == pytest.approx(1.6551, abs=0.01)
    floors = ridge_floors(4, 16, 0.125, 30_000, 0)
    assert floors.mean().item() == pytest.approx(0.9345, abs=0.005)
    # Theirs are plain averages over 400,000 sequences, good to about half a percent.
    for ours, theirs in zip(floors.tolist(), PUBLISHED_FLOORS + LATER_FLOORS, strict=True):
        assert ours == pytest.approx(theirs, rel=0.01)


def test_the_learner_reaches_the_floor_that_the_posterior_predicts():
    assert ridge_loss(4, 8, 0.125, rows=40_000) == pytest.approx(ridge_floor(4, 8, 0.125), abs=0.04)
    assert ridge_loss(3, 6, 0.5, rows=40_000, prior_variance=2.0) == pytest.approx(
        ridge_floor(3, 6, 0.5, prior_variance=2.0), abs=0.06
    )


def test_closed_forms_of_the_floor():
    assert zero_loss(4, 0.125) == 4.125
    assert zero_loss(3, 0.5, 2.0) == 6.5
    assert ridge_floor_at(0, 4, 8, 0.125, rows=10) == pytest.approx(4.125, abs=1e-12)
    assert ridge_floors(4, 6, 0.0, 10, 0).tolist() == [4, 3, 2, 1, 0, 0]
    # Nearly no noise is nearly that.
    assert ridge_floors(4, 4, 1e-9, 2000, 0).tolist() == pytest.approx([4, 3, 2, 1], abs=1e-3)


def test_zero_and_ridge_without_noise_reach_their_floors():
    xs, ys = drawn(40_000, 6, 4, 0.0)
    errors = (r.ridge_predictions(xs, ys, 0.0) - ys).square().mean(0)
    assert errors.tolist() == pytest.approx([4, 3, 2, 1, 0, 0], abs=0.2)
    study = RegressionConfig().build(ALL_SEEDS)
    assert study.floors(20_000)["zero"].mean().item() == pytest.approx(4.125, abs=0.15)
