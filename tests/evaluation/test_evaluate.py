"""The evaluator on a user's token study: prefixes, one-hot references, marks, clusters."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch

from inlearn.core.batch import Batch
from inlearn.core.contract import Measure, Study
from inlearn.core.errors import UserError
from inlearn.core.spaces import Interface, Tokens, Vectors
from inlearn.evaluation import evaluate
from inlearn.evaluation.evaluate import Evaluator, predictor
from inlearn.lab import discovery
from inlearn.lab.build import build_model, build_study
from inlearn.lab.config import Seeds, compose


@pytest.fixture
def live(lookup):
    found = discovery.study(lookup)
    config = compose(found, ["preset=small", "model.dropout=0.5"])
    study = build_study(config)
    return study, build_model(config, study.interface, torch.device("cpu"))


def one(lines, **wanted):
    found = [line for line in lines if all(line[k] == v for k, v in wanted.items())]
    assert len(found) == 1
    return found[0]


def test_references_have_their_known_scores(live):
    study, _ = live
    lines = Evaluator(study, Seeds().following(0)).references()
    assert one(lines, set="train", learner="table", measure="loss", by=[])["mean"] == [0.0]
    assert one(lines, set="train", learner="table", measure="accuracy", by=["cell"])["mean"] == [1.0, 1.0]
    uniform = one(lines, set="train", learner="uniform", measure="loss", by=[])
    assert math.isclose(uniform["mean"][0], math.log(4)) and uniform["n"] == [64]
    # KL(one-hot || uniform) is finite, KL(x || x) zero.
    far = one(lines, set="train", learner="uniform", measure="distance", reference="table", by=[])
    assert math.isclose(far["mean"][0], math.log(4))
    near = one(lines, set="train", learner="uniform", measure="distance", reference="uniform", by=[])
    assert math.isclose(near["mean"][0], 0.0, abs_tol=1e-12)


def test_a_model_is_measured_without_dropout_and_left_as_it_was(live):
    study, model = live
    model.train()
    evaluator = Evaluator(study, Seeds().following(0))
    predict = predictor(model, study.tasks["train"], torch.device("cpu"))
    first, second = evaluator.learner("model", predict), evaluator.learner("model", predict)
    assert first == second and model.training


def test_evaluation_sets_do_not_depend_on_the_runs_own_seeds(live):
    study, _ = live
    lines = [Evaluator(study, Seeds().following(seed)).references() for seed in (0, 1)]
    assert lines[0] == lines[1]
    other = Evaluator(study, Seeds(eval=5).following(0))
    assert not torch.equal(next(other.chunks("train")).batch.inputs,
                           next(Evaluator(study, Seeds().following(0)).chunks("train")).batch.inputs)  # fmt: skip


def test_chunks_change_nothing(live, monkeypatch):
    study, model = live
    predict = predictor(model, study.tasks["train"], torch.device("cpu"))
    whole = Evaluator(study, Seeds().following(0)).learner("model", predict)
    monkeypatch.setattr(evaluate, "POSITIONS", 17 * 3)  # 16 rows a chunk: rows that share a prefix stay together
    monkeypatch.setattr(evaluate, "KEPT", 0)
    evaluator = Evaluator(study, Seeds().following(0))
    assert len(list(evaluator.chunks("train"))) == 4
    for a, b in zip(whole, evaluator.learner("model", predict), strict=True):
        assert a["at"] == b["at"] and a["n"] == b["n"]
        assert a["mean"] == pytest.approx(b["mean"], abs=1e-6)
        assert a["se"] == pytest.approx(b["se"], abs=1e-6)


def test_an_unknown_set_names_the_nearest(live):
    study, _ = live
    with pytest.raises(UserError, match=r"unknown evaluation set 'trian'; did you mean 'train'"):
        Evaluator(study, Seeds().following(0)).references(["trian"])


def test_a_measure_of_the_wrong_size_is_refused(live):
    study, model = live
    study.measures = (Measure("odd", "1", "", lambda b, s, p: torch.zeros(3)),)
    predict = predictor(model, study.tasks["train"], torch.device("cpu"))
    with pytest.raises(ValueError, match="measure odd"):
        Evaluator(study, Seeds().following(0)).learner("model", predict)


class Fixed:
    """A task of one given batch."""

    labels: ClassVar = {}

    def __init__(self, batch, interface):
        self.batch, self.interface = batch, interface

    def sample(self, at, rows, first=0):
        return self.batch


def test_vectors_measures_a_row_and_a_cluster_mark():
    interface = Interface(Vectors(1), Vectors(2, answers=1), 3)
    batch = Batch(torch.zeros(4, 3, 1), torch.arange(12.0).view(4, 3, 1), torch.tensor([[1.0, 0, 1]] * 4),
                  marks={"position": torch.arange(3).expand(4, 3), "pair": torch.tensor([0, 0, 1, 1])})  # fmt: skip
    study = Study()
    study.tasks = {"train": Fixed(batch, interface)}
    study.evaluation_rows = lambda name: 4
    row = Measure(
        "row_sum", "1", "", lambda b, s, p: p[:, 0].view(4, 2).sum(1), (("position",), ("pair",)), cluster="pair"
    )
    study.measures = (Measure("loss", "squared error", "", evaluate._loss, (("position",),)), row)
    predictions = torch.arange(8.0)[:, None]
    lines = Evaluator(study, Seeds().following(0)).learner("model", lambda b: predictions)
    targets = torch.tensor([0.0, 2, 3, 5, 6, 8, 9, 11])
    errors = (predictions[:, 0] - targets) ** 2
    assert one(lines, measure="loss", by=[])["mean"] == [float(errors.mean())]
    by_position = one(lines, measure="loss", by=["position"])
    assert by_position["at"] == [[0], [2]]
    assert by_position["mean"] == [float(errors[0::2].mean()), float(errors[1::2].mean())]
    sums = one(lines, measure="row_sum", by=[])
    # Row sums 1, 5, 9, 13 in pairs: the pairs' means are 3 and 11, so the error is |11 - 3| / 2.
    assert sums["mean"] == [7.0] and math.isclose(sums["se"][0], 4.0)
    assert not [line for line in lines if line["measure"] == "row_sum" and line["by"] == ["position"]]
    assert one(lines, measure="row_sum", by=["pair"])["mean"] == [3.0, 11.0]


def test_batches_check_their_contract():
    interface = Interface(Tokens(3), Tokens(2), 4)
    good = Batch(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3))
    good.check(interface)
    from dataclasses import replace

    for change, words in (
        ({"inputs": good.inputs + 3}, "symbols outside"),
        ({"targets": good.targets + 2}, "symbols outside"),
        ({"weights": good.weights * 0}, "at least one scored"),
        ({"weights": -good.weights}, "non-negative"),
        ({"prefix": torch.zeros(1, 2, dtype=torch.int64)}, "reach 5 positions"),
        ({"marks": {"m": torch.zeros(3, dtype=torch.int64)}}, "mark 'm'"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(good, **change).check(interface)


def test_parts_and_the_unshared_form(live):
    study, _ = live
    from inlearn.core.draws import Address

    batch = study.tasks["train"].sample(Address(Seeds().following(0), "data", 1), 8)
    part = batch.part(4, 2)
    assert torch.equal(part.prefix, batch.prefix[2:3]) and torch.equal(part.inputs, batch.inputs[4:6])
    with pytest.raises(ValueError, match="cut a prefix"):
        batch.part(1, 2)
    literal = batch.unshared()
    assert literal.inputs.shape == (8, 3) and torch.equal(literal.inputs[3, :2], batch.prefix[1])
    assert literal.scored.tolist() == [2 + 3 * n for n in range(8)]
