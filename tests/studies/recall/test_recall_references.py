"""Ideal learners against what a reader of the symbols would say, and measures of known answers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.core.batch import Batch
from inlearn.core.draws import Address
from inlearn.core.spaces import Tokens
from inlearn.evaluation.evaluate import Evaluator
from inlearn.lab.config import Seeds
from inlearn.studies.recall.config import RecallConfig
from inlearn.studies.recall.measures import MEASURES, all_correct, correct, loss
from inlearn.studies.recall.references import LookUp, Uniform, Values
from inlearn.studies.recall.study import RecallStudy

SEEDS = Seeds().following(6)
HERE = Address(SEEDS, "eval")


def built(evaluation: dict | None = None, **task: object) -> RecallStudy:
    return RecallConfig.model_validate({"task": task, "evaluation": evaluation or {}}).build(SEEDS)


def contexts(batch: Batch, passes: int) -> list[dict[int, int]]:
    """Every row's own table, read from its symbols."""
    tables = []
    for row, count in enumerate(batch.marks["pairs"].tolist()):
        context = batch.inputs[row, : 2 * count * passes].tolist()
        tables.append(dict(zip(context[0::2], context[1::2], strict=True)))
    return tables


def by_hand(batch: Batch, passes: int, vocabulary: int) -> dict[str, list[list[float]]]:
    """Probabilities of each learner at each scored position."""
    tables = contexts(batch, passes)
    found: dict[str, list[list[float]]] = {"look_up": [], "values": [], "uniform": []}
    for place in batch.scored.tolist():
        row, column = divmod(place, batch.inputs.shape[1])
        table, key = tables[row], int(batch.inputs[row, column])
        found["look_up"].append([float(symbol == table[key]) for symbol in range(vocabulary)])
        found["values"].append([(symbol in table.values()) / len(table) for symbol in range(vocabulary)])
        found["uniform"].append([(symbol >= vocabulary // 2) / (vocabulary // 2) for symbol in range(vocabulary)])
    return found


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([1, 4, [1, 3, 5]]), st.integers(1, 2), st.sampled_from(["random", "zero"]), st.integers(1, 6))
def test_learners_say_what_a_reader_of_the_symbols_would(pairs, passes: int, filler: str, rows: int):
    study = built(vocabulary=12, length=32, pairs=pairs, passes=passes, filler=filler)
    batch = study.tasks["train"].sample(HERE, rows)
    expected = by_hand(batch, passes, 12)
    learners = study.references("train")
    assert [learner.name for learner in learners] == list(expected)
    for learner in learners:
        found = learner.predict(batch)
        assert found.shape == (len(batch.scored), 12) and found.dtype == torch.float64
        wanted = torch.tensor(expected[learner.name], dtype=torch.float64)
        assert torch.allclose(found.exp(), wanted, rtol=1e-12, atol=0), learner.name


def test_losses_and_distances_of_the_learners_are_the_formulas():
    study = built({"rows": 40, "pairs": [2, 4, 8], "pair_rows": 30}, pairs=[2, 8])
    lines = Evaluator(study, SEEDS).references()
    by_pairs = {
        (line["learner"], line["measure"], line["reference"]): {
            count: mean for (count,), mean in zip(line["at"], line["mean"], strict=True)
        }
        for line in lines
        if line["set"] == "pairs" and line["by"] == ["pairs"]
    }
    half = math.log(32)
    for count in (2, 4, 8):
        losses = {name: by_pairs[name, "loss", None][count] for name in ("look_up", "values", "uniform")}
        assert losses == pytest.approx({"look_up": 0.0, "values": math.log(count), "uniform": half}, abs=1e-12)
        assert by_pairs["uniform", "distance", "values"][count] == pytest.approx(half - math.log(count))
        assert by_pairs["uniform", "distance", "look_up"][count] == pytest.approx(half)
        assert by_pairs["look_up", "accuracy", None][count] == by_pairs["look_up", "all_recalled", None][count] == 1.0
        assert by_pairs["values", "distance", "values"][count] == pytest.approx(0.0, abs=1e-12)
        assert by_pairs["look_up", "distance", "values"][count] is None  # it calls impossible what may be


def test_knowing_the_values_alone_is_right_once_in_as_many():
    study = built(pairs=5)
    batch = study.tasks["train"].sample(HERE, 4000)
    right = correct(batch, Tokens(64), Values(64).predict(batch))
    # Of a row's five questions exactly one has the symbol that the learner always names.
    assert right.view(4000, 5).sum(1).tolist() == [1.0] * 4000


def test_distances_of_a_model_are_finite():
    study = built({"rows": 16, "pair_rows": 4})
    lines = Evaluator(study, SEEDS).learner(
        "model", lambda batch: torch.randn(len(batch.scored), 64, dtype=torch.float64).log_softmax(-1)
    )
    numbers = [value for line in lines for value in line["mean"]]
    assert numbers and None not in numbers
    sliced = {(line["measure"], tuple(line["by"])) for line in lines if line["set"] == "pairs"}
    assert {("accuracy", ("pairs", "gap")), ("all_recalled", ("pairs",)), ("distance", ("gap",))} <= sliced


# ---------------------------------------------------------------- measures


def test_measures_by_hand():
    study = built(vocabulary=8, length=16, pairs=[1, 3], passes=1)
    batch = study.tasks["pairs"].sample(HERE, 4)  # 1, 2, 3 and again 1 pair
    assert batch.marks["pairs"].tolist() == [1, 2, 3, 1]
    answer = batch.at_scored(batch.targets)
    share = torch.full((7, 8), 0.01, dtype=torch.float64)
    right = torch.tensor([1, 1, 0, 1, 1, 1, 0], dtype=torch.bool)
    named = torch.where(right, answer, (answer + 1) % 8)
    share[torch.arange(7), named] = 0.93
    assert correct(batch, Tokens(8), share.log()).tolist() == right.double().tolist()
    assert all_correct(batch, Tokens(8), share.log()).tolist() == [1.0, 0.0, 1.0, 0.0]
    losses = loss(batch, Tokens(8), share.log())
    assert losses.tolist() == pytest.approx([-math.log(0.93 if hit else 0.01) for hit in right])


def test_a_perfect_learner_is_perfect_by_every_measure():
    study = built(pairs=[1, 2, 7])
    for name in study.tasks:
        batch = study.tasks[name].sample(HERE, 50)
        values = {m.name: m.value(batch, Tokens(64), LookUp(64).predict(batch)) for m in MEASURES}
        assert not values["loss"].any() and values["accuracy"].all() and values["all_recalled"].all()
        assert len(values["all_recalled"]) == 50
        assert correct(batch, Tokens(64), Uniform(64).predict(batch)).mean() < 0.2
