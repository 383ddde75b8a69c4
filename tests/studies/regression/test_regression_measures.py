"""Measures and derived figures against brute force and learners whose figures are known."""

from __future__ import annotations

import pytest
import torch

from inlearn.core.batch import Batch
from inlearn.core.contract import Measure
from inlearn.core.draws import Address
from inlearn.core.spaces import Vectors
from inlearn.lab.config import Seeds
from inlearn.studies.regression import measures as m
from inlearn.studies.regression.config import RegressionConfig
from inlearn.studies.regression.study import RegressionStudy

SPACE = Vectors(1)
ONE_SEED = Seeds().following(2)
HERE = Address(ONE_SEED, "eval")


def built(**task: object) -> RegressionStudy:
    return RegressionConfig.model_validate({"task": task}).build(ONE_SEED)


def measure_of(study: RegressionStudy, name: str, on: str) -> Measure:
    found = [x for x in study.measures if x.name == name and (not x.sets or on in x.sets)]
    assert len(found) == 1
    return found[0]


def test_no_set_has_two_measures_of_one_name():
    study = built(count=4, sequences=9)
    for name in study.tasks:
        names = [x.name for x in study.measures if not x.sets or name in x.sets]
        assert "loss" in names and len(names) == len(set(names))


def test_subsequence_loss_is_the_mean_over_all_lengths():
    study = built()
    batch = study.tasks["train"].sample(HERE, 12)
    answers = torch.randn(96, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors = (answers - batch.at_scored(batch.targets)).square().view(12, 8)
    for row, value in enumerate(m.subsequence_loss(batch, SPACE, answers).tolist()):
        by_length = [errors[row, :length].mean().item() for length in range(1, 9)]
        assert value == pytest.approx(sum(by_length) / 8, rel=1e-12)


def test_loss_and_prediction_norm_by_hand():
    study = built(examples=2, dimension=1)
    batch = study.tasks["train"].sample(HERE, 1)
    answers = torch.tensor([[2.0], [-3.0]])
    ys = batch.latents.ys[0].tolist()
    assert m.loss(batch, SPACE, answers).tolist() == pytest.approx([(2 - ys[0]) ** 2, (-3 - ys[1]) ** 2], rel=1e-6)
    assert m.squared_answer(batch, SPACE, answers).tolist() == [4.0, 9.0]


@pytest.mark.parametrize("name", ["input_gains", "task_gains", "input_sweep"])
def test_scaled_loss_divides_by_the_square_of_the_rows_gain(name: str):
    study = built()
    task = study.tasks[name]
    batch = task.sample(HERE, 205, first=3)
    answers = torch.ones(205 * 8, 1, dtype=torch.float64)
    plain, scaled = (measure_of(study, x, name).value(batch, SPACE, answers) for x in ("loss", "loss_scaled"))
    gains = torch.tensor([task.labels["gain"][(row + 3) % len(task.labels["gain"])] for row in range(205)])
    assert torch.allclose(scaled.view(205, 8), plain.view(205, 8) / gains.double()[:, None] ** 2)


@pytest.mark.parametrize("name", ["input_gains", "task_gains"])
def test_perfect_answers_have_prediction_norm_ratio_one(name: str):
    study = built(count=5)
    batch = study.tasks[name].sample(HERE, 40_000)
    ratio = measure_of(study, "prediction_norm_ratio", name).value(batch, SPACE, batch.at_scored(batch.targets))
    by_gain = ratio.view(-1, 4, 8).mean((0, 2))
    assert by_gain.tolist() == pytest.approx([1.0] * 4, abs=0.04)


# ---------------------------------------------------------------- effective weights


def test_a_linear_learner_is_read_out_exactly():
    study = built(dimension=3, examples=4)
    batch = study.tasks["effective_weight"].sample(HERE, 5 * 12)
    oracle = (batch.latents.w * batch.at_scored(batch.inputs)[:, 1:]).sum(-1, keepdim=True).double()
    read, true = m.effective_weights(batch, oracle)
    assert torch.allclose(read, true, atol=1e-6)
    assert torch.equal(true, batch.latents.w[::3].double())
    for factor, cosine, norm, distance in ((1.0, 1, 1, 0.0), (-0.5, -1, 0.5, 1.5), (0.0, 0, 0, 1.0)):
        values = {
            name: measure_of(study, name, "effective_weight").value(batch, SPACE, factor * oracle)
            for name in ("weight_cosine", "weight_relative_norm", "weight_distance")
        }
        lengths = true.norm(dim=-1).repeat_interleave(3)
        assert torch.allclose(values["weight_cosine"], torch.full((60,), cosine).double(), atol=1e-6)
        assert torch.allclose(values["weight_relative_norm"], torch.full((60,), norm).double(), atol=1e-6)
        assert torch.allclose(values["weight_distance"], distance * lengths, atol=1e-6)


def test_the_read_out_of_ridge_is_its_weight_vector():
    study = built(dimension=3, examples=5)
    batch = study.tasks["effective_weight"].sample(HERE, 2 * 15)
    read, _ = m.effective_weights(batch, study.references("effective_weight")[0].predict(batch))
    plain = study.tasks["train"].sample(HERE, 2).latents
    for probe in range(10):
        base, place = probe // 5, probe % 5
        x, y = plain.xs[base, :place].double(), plain.ys[base, :place].double()
        w = torch.linalg.solve(x.T @ x + 0.125 * torch.eye(3).double(), x.T @ y)
        assert torch.allclose(read[probe], w, atol=1e-6)


def test_a_batch_that_splits_a_probe_is_refused():
    study = built(dimension=3, examples=4)
    for rows, first in ((8, 0), (9, 1)):
        batch = study.tasks["effective_weight"].sample(HERE, rows, first)
        with pytest.raises(ValueError, match="groups of 3"):
            m.effective_weights(batch, torch.zeros(rows, 1))


# ---------------------------------------------------------------- in-context scores


def answered(errors: torch.Tensor, gain: torch.Tensor | None = None) -> tuple[Batch, torch.Tensor]:
    """A batch and answers whose squared errors are `errors` (N, K)."""
    rows, examples = errors.shape
    marks = {} if gain is None else {"gain": gain}
    batch = Batch(
        torch.zeros(rows, examples, 1), torch.zeros(rows, examples, 1), torch.ones(rows, examples), marks=marks
    )
    return batch, errors.sqrt().reshape(-1, 1)


def test_in_context_scores_are_differences_of_positions():
    batch, answers = answered(torch.tensor([[10.0 - k for k in range(8)], [20.0 - 2 * k for k in range(8)]]).double())
    scores = {score.name: score.value(batch, Vectors(1), answers) for score in m.in_context_scores(8)}
    assert scores["icl_1_4"].tolist() == pytest.approx([-3.0, -6.0])
    assert scores["icl_4_8"].tolist() == pytest.approx([-4.0, -8.0])
    assert scores["icl_1_8"].tolist() == pytest.approx([-7.0, -14.0])
    assert [score.name for score in m.in_context_scores(16)][3:] == ["icl_8_16", "icl_1_16"]
    assert m.in_context_scores(3) == []


def test_gain_scores_divide_by_the_gain_or_its_square():
    errors = torch.tensor([[9.0, 5.0, 3.0], [100.0, 50.0, 20.0]]).double()
    batch, answers = answered(errors, torch.tensor([0, 1]))
    scaled, published = (score.value(batch, Vectors(1), answers).tolist() for score in m.gain_scores((3.0, 10.0), 3))
    assert published == pytest.approx([-2.0, -8.0])
    assert scaled == pytest.approx([-6 / 9, -0.8])
