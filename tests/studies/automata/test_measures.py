"""Measures of answers that are known, their slices, and the two second implementations that they rest on."""

from __future__ import annotations

import math

import automata_by_hand as by_hand
import pytest
import torch

from inlearn.core.batch import Batch
from inlearn.core.spaces import Tokens
from inlearn.evaluation.evaluate import Evaluator
from inlearn.lab.config import Seeds
from inlearn.studies.automata.config import AutomataConfig, MachinesConfig
from inlearn.studies.automata.encoding import encode
from inlearn.studies.automata.measures import MEASURES, correct, loss, perfect
from inlearn.studies.automata.references import references
from inlearn.studies.automata.study import AutomataStudy

SEEDS = Seeds().following(4)
SPACE = Tokens(8, 3)
TASK = MachinesConfig(states=3, actions=3, demo_length=6, query_length=9)


def predicted(batch: Batch, right: torch.Tensor, share: float = 0.9) -> torch.Tensor:
    """Log-probabilities that name the next state where `right` (n,) says so, else another one."""
    target = batch.at_scored(batch.targets)
    named = torch.where(right, target, (target + 1) % 3)
    found = torch.full((len(target), 8), -torch.inf, dtype=torch.float64)
    found[:, :3] = math.log((1 - share) / 2)
    return found.scatter_(1, named[:, None], math.log(share))


def built(**keys: object) -> AutomataStudy:
    return AutomataConfig.model_validate(keys).build(SEEDS)


@pytest.mark.parametrize("dense", [False, True])
def test_measures_by_hand(dense: bool):
    batch = by_hand.batch(TASK, by_hand.rows(TASK, 40, 1), dense=dense)
    right = torch.rand(len(batch.scored), generator=torch.Generator().manual_seed(0)) < 0.97
    said = predicted(batch, right)
    assert correct(batch, SPACE, said).tolist() == right.double().tolist()
    wanted = [-math.log(0.9 if hit else 0.05) for hit in right.tolist()]
    assert loss(batch, SPACE, said).tolist() == pytest.approx(wanted)
    whole = [True] * 40
    for row, place, hit in zip(batch.scored_rows.tolist(), batch.scored.tolist(), right.tolist(), strict=True):
        of_query = place % TASK.length >= int(batch.latents.query_at[row])
        whole[row] &= hit or not of_query
    assert perfect(batch, SPACE, said).tolist() == [float(each) for each in whole]
    assert 0 < sum(whole) < 40


def test_demonstrations_answered_wrongly_spoil_no_query():
    batch = by_hand.batch(TASK, by_hand.rows(TASK, 20, 1), dense=True)
    of_query = batch.at_scored(batch.marks["position"]) > 0
    assert 0 < of_query.sum() < len(of_query)
    assert perfect(batch, SPACE, predicted(batch, of_query)).all()
    assert not perfect(batch, SPACE, predicted(batch, ~of_query)).any()


def test_rows_read_by_hand_are_those_that_are_encoded():
    for special in ({}, {"relabel": True}, {"outputs": 2}, {"absorbing": "one"}, {"defined": 0.8}):
        task = MachinesConfig(states=4, actions=3, demo_length=7, query_length=20, **special)
        made = by_hand.rows(task, 30, 2)
        for how in ({}, {"dense": True}, {"free": True}):
            slow, fast = by_hand.batch(task, made, **how), encode(by_hand.episodes(task, made), task.length, **how)
            for name in ("inputs", "targets", "weights"):
                assert torch.equal(getattr(slow, name), getattr(fast, name)), (special, how, name)
            assert slow.marks.keys() == fast.marks.keys()
            for name, mark in slow.marks.items():
                assert torch.equal(mark, fast.marks[name]), (special, name)
            if "free" in how:
                assert torch.equal(slow.feedback, fast.feedback)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"supervision": "dense"},
        {"data": {"kind": "cached", "train": 40, "validation": 20, "test": 20}},
        {"task": {"kind": "machines", "relabel": True, "demos": 2}},
        {"task": {"kind": "machines", "outputs": 2, "head": "states"}},
        {"task": {"kind": "machines", "absorbing": "one", "states": 4, "actions": 4}},
    ],
)
def test_every_learner_is_measured_on_every_set(keys: dict, tmp_path):
    if keys.get("data"):
        keys = {"data": {**keys["data"], "folder": str(tmp_path)}}
    study = built(**{"evaluation": {"rows": 24, "free_rows": 10, "query_lengths": [5, 40]}, **keys})
    lines = Evaluator(study, SEEDS).references(list(study.tasks))
    names = [learner.name for learner in references(study.config, "test")]
    for set_ in ("train", "validation", "test", "free", "query_5", "query_40"):
        for name in names:
            own = {
                (line["measure"], tuple(line["by"])): line["mean"]
                for line in lines
                if (line["set"], line["learner"], line["reference"]) == (set_, name, None)
            }
            slices = {(m.name, by) for m in MEASURES for by in ((), *m.by)}
            assert set(own) == slices, (set_, name)
            assert all(0 <= value <= 1 for value in own["accuracy", ()]), (set_, name)
            if name == "oracle":
                assert own["accuracy", ()] == own["perfect", ()] == [1.0] and own["loss", ()] == [0.0]
            if set_ != "free":
                assert own["loss", ()][0] is not None, (set_, name)
    distances = {line["set"] for line in lines if line["measure"] == "distance"}
    assert distances == set(study.tasks) - {"free"}


def test_slices_of_a_perfect_memory():
    study = built(
        task={"kind": "machines", "states": 4, "actions": 4, "demo_length": 8, "query_length": 40},
        evaluation={"rows": 200},
    )
    lines = Evaluator(study, SEEDS).references(["test"])

    def levels(learner: str, *by: str) -> dict[tuple[int, ...], float]:
        (line,) = [
            line for line in lines
            if (line["learner"], line["measure"], line["by"]) == (learner, "accuracy", list(by))
        ]  # fmt: skip
        return {tuple(level): mean for level, mean in zip(line["at"], line["mean"], strict=True)}

    both, demos, query = (levels(name, "seen") for name in ("look_up", "look_up_demos", "query_only"))
    assert both[2,] == both[1,] == demos[2,] == 1.0
    assert max(both[0,], demos[1,], demos[0,], query[0,]) < 0.5 < query[2,] < 1
    times = levels("look_up", "occurrences")
    assert times.pop((0,)) < 0.5 and set(times.values()) == {1.0}
    along = levels("query_only", "position")
    assert along[1,] < 0.4 and along[38,] > along[10,] > along[1,]
