"""Charts of a study's report, of numbers that are known; the drawing of a machine."""

from __future__ import annotations

import json
import math

import automata_by_hand as by_hand
import pandas as pd
import pytest
import torch
import vl_convert

from inlearn.evaluation.evaluate import Evaluator
from inlearn.lab.config import Seeds
from inlearn.studies.automata.charts import LOOKS, charts, plateau
from inlearn.studies.automata.config import AutomataConfig, MachinesConfig
from inlearn.studies.automata.drawing import drawn, machine
from inlearn.studies.automata.references import learners

SEEDS = Seeds().following(2)
STEPS = (0, 10, 200)
TITLES = [
    "Accuracy over training",
    "Accuracy by where the pair was shown",
    "Accuracy in and out of states that absorb",
    "Accuracy along the query",
    "Accuracy by how often the pair was shown",
    "Running freely",
    "Accuracy against the length of the query",
]


def as_table(lines: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(
        {"run": "one", **{key: line[key] for key in ("set", "learner", "measure", "reference", "unit")},
         "step": line.get("step"), "by": ",".join(line["by"]), "level": tuple(level), "mean": mean, "se": se, "n": n}
        for line in lines
        for level, mean, se, n in zip(line["at"], line["mean"], line["se"], line["n"], strict=True)
    )  # fmt: skip


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """A model that answers like naive Bayes, later with a hair of look-up."""
    task = {"kind": "machines", "states": 4, "actions": 3, "absorbing": "one", "demo_length": 8, "query_length": 12}
    study = AutomataConfig.model_validate(
        {"task": task, "evaluation": {"rows": 60, "free_rows": 20, "query_lengths": [6, 30]}}
    ).build(SEEDS)
    evaluator, sets = Evaluator(study, SEEDS), list(study.tasks)
    known = {learner.name: learner for learner in learners(study.config.task)}
    lines = evaluator.references(sets)
    for step in STEPS:
        part = 0.001 * step

        def answers(batch, part=part):
            memory, average = (known[name].predict(batch).exp() for name in ("look_up", "naive_bayes"))
            return (part * memory + (1 - part) * average).log()

        lines += [{**line, "step": step} for line in evaluator.learner("model", answers, sets)]
    return as_table(lines)


def values(chart) -> list[dict]:
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def test_charts_compile_and_hold_the_tables_numbers(table: pd.DataFrame):
    found = charts(table)
    assert [title for title, _, _ in found] == TITLES
    readable = {name.replace("_", " ") for name in LOOKS}
    for title, caption, chart in found:
        assert caption.endswith(".")
        svg = vl_convert.vegalite_to_svg({**chart.to_dict(), "width": 500})
        assert "accuracy (fraction)" in svg, title
        if "shown" not in title.split()[-1] and "absorb" not in title:
            assert readable <= {row.get("series") for row in values(chart)}, title
    over = {row["step"]: row["mean"] for row in values(found[0][2]) if row.get("series") == "model"}
    own = table[(table["learner"] == "model") & (table["set"] == "validation") & (table["measure"] == "accuracy")]
    wanted = {row.step: row.mean for row in own[own["by"] == ""].rename(columns={"mean": "mean"}).itertuples()}
    assert over == pytest.approx(wanted, rel=1e-5)
    longer = [row for row in values(found[-1][2]) if row.get("series") == "model" and "interval" in row]
    assert {row["level"] for row in longer} == {"6", "30"}


def test_the_plateau_is_named(table: pd.DataFrame):
    said = plateau(table, "validation")
    assert (
        said.startswith("At step 200 the model answers 0.")
        and "predictions are nearest to those of 'naive bayes'" in said
    )
    assert plateau(table[table["learner"] == "model"], "validation") == ""


def test_what_was_not_evaluated_is_left_out(table: pd.DataFrame):
    assert charts(table[:0]) == []
    trained = table[table["set"] == "train"]
    assert [title for title, _, _ in charts(trained)] == TITLES[:5]
    moving = table[~((table["by"] == "absorbed") & (table["level"] == (1,)))]
    assert TITLES[2] not in [title for title, _, _ in charts(moving)]
    assert charts(table[table["learner"] != "model"]) == []


def test_runs_of_several_seeds_share_a_chart(table: pd.DataFrame):
    both = pd.concat([table, table.assign(run="two", mean=table["mean"].astype(float) * 0.98)])
    for _, _, chart in charts(both):
        assert "NaN" not in json.dumps(chart.to_dict())


# ---------------------------------------------------------------- the drawn machine


@pytest.mark.parametrize("special", [{}, {"relabel": True}, {"outputs": 2}, {"defined": 0.7}, {"absorbing": "one"}])
def test_every_step_of_the_machine_is_drawn_once(special: dict):
    task = MachinesConfig(states=5, actions=4, demo_length=12, query_length=70, **special)
    made = by_hand.rows(task, 3, 8)
    episodes = by_hand.episodes(task, made)
    for row, one in enumerate(made):
        data = values(machine(episodes, row))
        letters = sorted("".join(point["text"].replace(" ", "") for point in data if "text" in point))
        actions = ["abcdefghij"[symbol - 8] for symbol in one.action_symbols]
        assert letters == sorted(actions[a] for state in one.table for a, to in enumerate(state) if to >= 0)
        nodes = [point for point in data if "state" in point]
        assert [node["state"] for node in nodes] == [str(symbol) for symbol in one.state_symbols]
        assert [node["ring"] for node in nodes] == [one.absorbs(state) for state in range(5)]
        assert all(abs(point["x"]) < 1.5 and abs(point["y"]) < 1.5 for point in data)
        # An arrow's head is at the state that it leads to.
        heads = [point for point in data if "angle" in point]
        edges = sorted({(state, to) for state, row in enumerate(one.table) for to in row if to >= 0})
        assert len(heads) == len(edges)
        near = [min(range(5), key=lambda n: math.dist((nodes[n]["x"], nodes[n]["y"]), (h["x"], h["y"]))) for h in heads]
        assert sorted(near) == sorted(to for _, to in edges)


def test_walks_are_drawn_to_their_ends_and_no_further():
    task = MachinesConfig(states=3, actions=3, demo_length=10, query_length=130)
    made = by_hand.rows(task, 2, 5)
    episodes = by_hand.episodes(task, made)
    episodes.query_states[torch.arange(episodes.query_states.shape[1]) > episodes.query_lengths[:, None]] = -1
    (_, graph), (title, chart) = drawn(episodes, 1)
    assert title and "svg" in vl_convert.vegalite_to_svg(graph.to_dict())
    vl_convert.vegalite_to_svg({**chart.to_dict(), "width": 900})
    cells = values(chart)
    walks = [*made[1].demos, made[1].query]
    assert len(cells) == sum(len(states) for states, _ in walks)
    query = [cell for cell in cells if cell["walk"].startswith("query")]
    assert [cell["state"] for cell in query] == made[1].query[0]
    assert "".join(cell["action"] for cell in query) == "".join("abc"[a] for a in made[1].query[1])
