"""Numbers that claims check, against slow counts of the same rows; the published recipe where ours differs."""

from __future__ import annotations

import automata_by_hand as by_hand
import pytest
import torch

from inlearn.core.errors import UserError
from inlearn.studies.automata import quantities
from inlearn.studies.automata.config import MachinesConfig
from inlearn.studies.automata.quantities import QUANTITIES, STATISTICS, score, statistic
from inlearn.studies.automata.references import learners

SMALL = {"states": 3, "actions": 2, "demo_length": 4, "query_length": 9}


@pytest.mark.parametrize("special", [{}, {"absorbing": "one"}, {"connected": True}, {"states": 5, "actions": 3}])
def test_statistics_of_rows_are_what_counting_says(special: dict):
    task = MachinesConfig(**SMALL | special)
    made = by_hand.rows(task, 50, 3)
    episodes = by_hand.episodes(task, made)
    for row, one in enumerate(made):
        reached = []
        for start in range(task.states):
            found, waiting = {start}, [start]
            while waiting:
                new = set(one.table[waiting.pop()]) - found
                found |= new
                waiting += new
            reached.append(len(found) == task.states)
        stuck = [one.absorbs(state) for state in range(task.states)]
        pairs = {pair for states, actions in one.demos for pair in zip(states, actions, strict=False)}
        states, actions = one.query
        expected = {
            "connected": all(reached),
            "absorbing": any(stuck),
            "absorbing_states": sum(stuck),
            "reached": reached[0],
            "loops": sum(one.table[s].count(s) for s in range(task.states)) / task.states,
            "symbols": len(one.symbols()[0]),
            "coverage": len(pairs) / (task.states * task.actions),
            "moving": sum(not stuck[state] for state in states[:-1]) / len(actions),
        }
        assert expected.keys() == STATISTICS.keys()
        for name, value in expected.items():
            assert STATISTICS[name](episodes)[row].item() == pytest.approx(value), (name, row)


def test_scores_are_means_over_questions_or_rows_whatever_the_parts():
    few = score("look_up", SMALL, rows=300)
    assert 0.9 < few < 1 and score("oracle", SMALL, rows=300) == 1.0
    assert score("look_up", SMALL, "perfect", rows=300) < few
    assert score("look_up_demos", SMALL, free=True, rows=300) < score("look_up_demos", SMALL, rows=300) < few
    assert score("uniform", SMALL, "loss", rows=30) == pytest.approx(1.0986, abs=1e-4)
    stuck = SMALL | {"absorbing": "one"}
    assert score("unigram", stuck, moving=True, rows=300) + 0.2 < score("unigram", stuck, rows=300)
    assert score("look_up", SMALL, rows=300, seed=1) != few


def test_rows_count_alike_however_they_are_parted(monkeypatch):
    whole = [score("unigram", SMALL, measure, rows=100) for measure in ("accuracy", "perfect")]
    monkeypatch.setattr(quantities, "_SYMBOLS", 23 * MachinesConfig(**SMALL).length)
    quantities._scores.cache_clear()
    parted = [score("unigram", SMALL, measure, rows=100) for measure in ("accuracy", "perfect")]
    quantities._scores.cache_clear()
    assert parted == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    "asked, told",
    [
        (lambda: score("lookup", SMALL), "look_up"),
        (lambda: score("look_up", SMALL, "accurcy"), "accuracy"),
        (lambda: score("look_up", {"states": 3, "action": 2}), "actions"),
        (lambda: score("look_up", {"states": 99}), "states"),
        (lambda: score("look_up", SMALL, "perfect", moving=True, rows=10), "of rows"),
        (lambda: statistic("covrage", SMALL), "coverage"),
    ],
)
def test_what_cannot_be_is_refused_by_name(asked, told: str):
    with pytest.raises(UserError, match=told):
        asked()


def test_the_published_recipe_of_absorbing_machines_gives_the_published_numbers():
    """Which ours leaves, so that every state is reached: there any state may absorb, state 0 too."""
    task = MachinesConfig(states=5, actions=5, demo_length=60, query_length=80, absorbing="one")
    made = by_hand.rows(task, 500, 1)
    batch = by_hand.batch(task, made)
    target = batch.at_scored(batch.targets)
    own = {learner.name: learner for learner in learners(task)}
    # Three standard errors of 500 machines and the published 1,250 together, as measured over rows.
    for name, published, band in (
        ("look_up_demos", 0.977, 0.008),
        ("look_up", 0.983, 0.005),
        ("unigram", 0.941, 0.017),
        ("given_state", 0.958, 0.010),
        ("given_action", 0.941, 0.016),
        ("naive_bayes", 0.967, 0.007),
        ("query_only", 0.911, 0.007),
    ):
        found = (own[name].predict(batch).argmax(-1) == target).double().mean().item()
        assert found == pytest.approx(published, abs=band), name
    assert score("query_only", task.model_dump(exclude_unset=True), rows=500) < 0.904  # never state 0 by luck
    assert torch.tensor([one.absorbs(0) for one in made]).double().mean() == pytest.approx(0.2, abs=0.06)


def test_the_study_offers_its_quantities():
    from inlearn.lab import discovery
    from inlearn.lab.build import build_study
    from inlearn.lab.config import compose

    assert build_study(compose(discovery.study("automata"), [])).quantities() == QUANTITIES
