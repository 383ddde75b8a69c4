"""Sequences are functions of address and number; sets nest, epochs are exact, gains and probes are what they say."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.core.batch import Batch
from inlearn.core.draws import Address
from inlearn.lab.config import Seeds
from inlearn.studies.regression.config import RegressionConfig
from inlearn.studies.regression.encoding import encode
from inlearn.studies.regression.study import RegressionStudy
from inlearn.studies.regression.tasks import Dataset, Discrete, Gaussian, Source, batch_of, task_vectors

SEEDS = Seeds().following(5)
TRAIN = Address(SEEDS, "data", 3)


def regression_study(task: dict, batch: int | None = None, **rest: object) -> RegressionStudy:
    return RegressionConfig.model_validate({"task": task, **rest}).build(SEEDS, batch)


def same_rows(part: Batch, whole: Batch, first: int, rows: int) -> bool:
    cut = slice(first, first + rows)
    tensors = all(torch.equal(getattr(part, n), getattr(whole, n)[cut]) for n in ("inputs", "targets", "weights"))
    marks = all(torch.equal(part.marks[n], whole.marks[n][cut]) for n in whole.marks)
    latents = all(torch.equal(getattr(part.latents, n), getattr(whole.latents, n)[cut]) for n in ("w", "xs", "ys"))
    return tensors and marks and latents


EVERY_SET = regression_study({"dimension": 3, "examples": 5, "count": 6, "sequences": 11}, batch=64)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(EVERY_SET.tasks)), st.integers(0, 40), st.integers(1, 24))
def test_a_row_depends_on_the_address_and_its_number_alone(name: str, first: int, rows: int):
    task = EVERY_SET.tasks[name]
    whole, part = task.sample(TRAIN, 64), task.sample(TRAIN, rows, first)
    assert same_rows(part, whole, first, rows)
    whole.check(task.interface)


@pytest.mark.parametrize("outputs, width", [("answer", 1), ("token", 5)])
def test_batches_keep_the_contract(outputs: str, width: int):
    study = regression_study({"count": 6}, outputs=outputs)
    assert study.interface.length == 16
    assert study.interface.inputs.width == 5
    assert study.interface.outputs.width == width
    batch = study.tasks["train"].sample(TRAIN, 10)
    batch.check(study.interface)
    assert batch.inputs.shape == (10, 15, 5)
    assert batch.weights.sum(1).tolist() == [8.0] * 10
    assert torch.equal(batch.inputs, encode(batch.latents.xs, batch.latents.ys)[:, :-1])
    assert torch.equal(batch.at_scored(batch.targets).view(10, 8), batch.latents.ys)
    assert batch.at_scored(batch.marks["position"]).tolist() == list(range(8)) * 10


def test_many_steps_at_once_are_the_steps_one_by_one():
    task = regression_study({"count": 6}).tasks["train"]
    together = task.sample(Address(SEEDS, "data", torch.arange(4)), 7)
    for step in range(4):
        alone = task.sample(Address(SEEDS, "data", step), 7)
        assert torch.equal(together.inputs[step], alone.inputs)
        assert torch.equal(together.targets[step], alone.targets)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.integers(1, 20), st.integers(0, 9), st.sampled_from([6, "inf"]))
def test_steps_of_a_block_are_what_they_are_when_drawn_alone(step: int, rows: int, first: int, count: int | str):
    task = regression_study({"count": count}).tasks["train"]
    batch = task.sample(Address(SEEDS, "data", step), rows, first)
    alone = batch_of(task.source.sequences(Address(SEEDS, "data", step), rows, first))
    assert same_rows(batch, alone, 0, rows)
    batch.check(task.interface)


def test_labels_are_linear_and_noise_has_its_variance():
    drawn = Source(Gaussian(4, 2.0), 8, 4, 0.5).sequences(TRAIN, 40_000)
    noise = drawn.ys - torch.einsum("nkd,nd->nk", drawn.xs, drawn.w)
    for values, variance in ((noise, 0.5), (drawn.xs, 1.0), (drawn.w, 2.0)):
        spread = variance * (2 / values.numel()) ** 0.5
        assert abs(values.var().item() - variance) < 5 * spread
        assert abs(values.mean().item()) < 5 * (variance / values.numel()) ** 0.5


def test_noise_zero_is_exact():
    drawn = Source(Gaussian(4), 8, 4, 0.0).sequences(TRAIN, 10)
    assert torch.equal(drawn.ys, (drawn.xs * drawn.w[:, None]).sum(-1))


# ---------------------------------------------------------------- task vectors


def test_a_smaller_set_of_tasks_begins_a_larger_one():
    assert torch.equal(task_vectors(SEEDS, 16, 4), task_vectors(SEEDS, 32, 4)[:16])


def test_task_vectors_follow_the_task_seed_alone():
    others = Seeds(task=5).following(99)
    assert torch.equal(task_vectors(SEEDS, 8, 4), task_vectors(others, 8, 4))
    assert not torch.equal(task_vectors(SEEDS, 8, 4), task_vectors(Seeds().following(6), 8, 4))


def test_task_vectors_have_the_prior_variance():
    assert task_vectors(SEEDS, 50_000, 4, 3.0).var().item() == pytest.approx(3.0, abs=5 * 3 * (2 / 200_000) ** 0.5)


def test_discrete_sequences_use_every_vector_equally_often():
    vectors = task_vectors(SEEDS, 5, 4)
    drawn = Discrete(vectors).draw(TRAIN.key("weights"), 20_000)
    uses = (drawn[:, None] == vectors).all(-1)
    assert uses.sum(1).tolist() == [1] * 20_000
    assert (uses.sum(0) - 4000).abs().max() < 5 * (20_000 * 0.2 * 0.8) ** 0.5


def test_a_singleton_is_its_vector():
    batch = regression_study({"vector": (1.0, -2.0, 0.5, 0.0), "noise_variance": 0.0}).tasks["train"].sample(TRAIN, 4)
    assert batch.latents.w.tolist() == [[1.0, -2.0, 0.5, 0.0]] * 4


# ---------------------------------------------------------------- a finite dataset


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 23), st.integers(1, 17))
def test_every_sequence_comes_exactly_once_an_epoch(size: int, batch: int):
    data = Dataset(Gaussian(2), 3, 2, 0.1, seeds=SEEDS, size=size, batch=batch)
    steps = -(-3 * size // batch)  # three epochs and what the last step needs
    order = torch.cat([data.indices(Address(SEEDS, "data", step), batch) for step in range(steps)]).tolist()
    for epoch in range(3):
        assert sorted(order[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_epochs_have_different_orders_and_sequences_stay_the_same():
    data = Dataset(Gaussian(2), 3, 2, 0.1, seeds=SEEDS, size=50, batch=50)
    seen = []
    for step in range(2):
        at = Address(SEEDS, "data", step)
        index, drawn = data.indices(at, 50), data.sequences(at, 50)
        back = index.argsort()
        seen.append((index, drawn.w[back], drawn.xs[back], drawn.ys[back]))
    assert not torch.equal(seen[0][0], seen[1][0])
    for first, second in zip(seen[0][1:], seen[1][1:], strict=True):
        assert torch.equal(first, second)


def test_a_finite_dataset_is_not_its_heldout_set():
    study = regression_study({"sequences": 20}, batch=4)
    at = Address(SEEDS, "eval")
    trained = {tuple(row) for row in study.tasks["train"].sample(at, 20).latents.w.tolist()}
    assert len(trained) == 20
    assert trained.isdisjoint(map(tuple, study.tasks["heldout"].sample(at, 20).latents.w.tolist()))
    assert study.evaluation_rows("train") == 20


def test_a_finite_dataset_wants_to_know_the_batch():
    task = regression_study({"sequences": 20}).tasks["train"]
    assert task.sample(Address(SEEDS, "eval"), 4).rows == 4
    with pytest.raises(ValueError, match="batch"):
        task.sample(TRAIN, 4)


# ---------------------------------------------------------------- gains and probes


@pytest.mark.parametrize("name", ["input_gains", "task_gains"])
def test_gains_scale_the_signal_and_leave_the_noise(name: str):
    study = regression_study({"count": 3})
    gains = study.tasks[name].labels["gain"]
    assert gains == (3.0, 5.0, 10.0, 100.0)
    batch = study.tasks[name].sample(TRAIN, 40)
    plain = study.tasks["train"].sample(TRAIN, 10).latents
    assert batch.marks["gain"].tolist() == [0, 1, 2, 3] * 10
    assert batch.marks["sequence"].tolist() == [row // 4 for row in range(40)]
    noise = plain.ys - (plain.xs * plain.w[:, None]).sum(-1)
    for row in range(40):
        gain, base = gains[row % 4], row // 4
        expected = gain * (plain.xs[base] @ plain.w[base]) + noise[base]
        torch.testing.assert_close(batch.latents.ys[row], expected, rtol=1e-5, atol=1e-4)
        scaled_x, scaled_w = (gain, 1.0) if name == "input_gains" else (1.0, gain)
        torch.testing.assert_close(batch.latents.xs[row], scaled_x * plain.xs[base])
        torch.testing.assert_close(batch.latents.w[row], scaled_w * plain.w[base])


def test_the_sweep_has_a_hundred_gains_over_seven_decades():
    gains = EVERY_SET.tasks["input_sweep"].labels["gain"]
    expected = torch.logspace(-2.5, 4.5, 100, dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(gains, dtype=torch.float64), expected)


def test_probes_keep_the_context_and_ask_along_one_axis():
    study = regression_study({"dimension": 3, "examples": 4, "noise_variance": 0.3})
    batch = study.tasks["effective_weight"].sample(TRAIN, 2 * 12)
    plain = study.tasks["train"].sample(TRAIN, 2).latents
    assert batch.weights.sum(1).tolist() == [1.0] * 24
    for row in range(24):
        base, place, axis = row // 12, row // 3 % 4, row % 3
        assert batch.scored[row].item() % 7 == 2 * place
        assert torch.equal(batch.latents.xs[row, :place], plain.xs[base, :place])
        torch.testing.assert_close(batch.latents.ys[row, :place], plain.ys[base, :place])
        probe = torch.zeros(3)
        probe[axis] = 3**0.5
        assert torch.equal(batch.latents.xs[row, place], probe)
        assert batch.at_scored(batch.targets)[row].item() == pytest.approx(3**0.5 * plain.w[base, axis].item())
        assert not batch.latents.xs[row, place + 1 :].any()
    assert Counter(batch.marks["sequence"].tolist()) == {0: 12, 1: 12}
