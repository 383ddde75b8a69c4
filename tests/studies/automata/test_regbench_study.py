"""RegBench as the laboratory sees it: what is refused and in which words, sets, descriptions, charts, a model."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import vl_convert

from inlearn.core.contract import Task
from inlearn.core.draws import Address
from inlearn.core.errors import UserError
from inlearn.core.spaces import Tokens
from inlearn.evaluation.evaluate import Evaluator
from inlearn.lab import discovery
from inlearn.lab.config import Seeds, compose
from inlearn.lab.session import start
from inlearn.lab.signature import signature
from inlearn.runs.metrics import evaluation_table
from inlearn.studies.automata.config import AutomataConfig
from inlearn.studies.automata.regbench_charts import charts
from inlearn.studies.automata.regbench_machines import identities
from inlearn.studies.automata.regbench_presets import REGBENCH_PRESETS
from inlearn.studies.automata.regbench_study import RegBenchStudy

SMALL = ("task=regbench", "task.nodes=[4,5]", "task.letters=[4,6]", "task.word_length=[1,8]", "task.words=[3,5]")


def config_of(*overrides: str) -> AutomataConfig:
    return compose(discovery.study("automata"), overrides).study


def study_of(*overrides: str, seed: int = 1, batch: int | None = 8) -> RegBenchStudy:
    return config_of(*SMALL, *overrides).build(Seeds().following(seed), batch)


# ---------------------------------------------------------------- configuration


def test_the_defaults_are_the_published_numbers():
    task = config_of("task=regbench").task
    assert (task.nodes, task.letters, task.edges) == ((4, 12), (4, 18), (1, 3))
    assert (task.word_length, task.words, task.length) == ((1, 49), (10, 19), 19 * 50 - 2)


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["task.nodes=[8,5]"], ["task.nodes = [8, 5]", "least first", "[5, 8]"]),
        (["task.nodes=[4,17]"], ["task.nodes", "17", "16"]),
        (["task.nodes=[1,4]"], ["task.nodes", "1", "2"]),
        (["task.letters=[4,19]"], ["task.letters", "19", "18"]),
        (["task.letters=[2,9]"], ["task.edges = [1, 3]", "task.letters = [2, 9]", "at most 2 edges"]),
        (["task.nodes=[3,9]"], ["task.edges = [1, 3]", "task.nodes = [3, 9]", "at most 2 edges"]),
        (["task.edges=[0,2]"], ["task.edges", "0"]),
        (["task.word_length=[0,9]"], ["task.word_length", "0"]),
        (["task.words=[1,3]"], ["task.words", "1"]),
        (["task.words=3"], ["task.words", "3"]),
        (["task.states=3"], ["states", "task."]),
        (["task.node=[4,5]"], ["node", "task.nodes"]),
        (["supervision=dense"], ["supervision = dense", "query"]),
        (["evaluation.query_lengths=[4]"], ["evaluation.query_lengths", "none"]),
        (["evaluation.free_rows=4"], ["evaluation.free_rows", "free", "256"]),
        (["data=cached", "data.folder=elsewhere"], ["data.folder"]),
    ],
)
def test_what_cannot_be_is_refused_by_name(overrides: list[str], told: list[str]):
    with pytest.raises(UserError) as refused:
        config_of("task=regbench", *overrides)
    for part in told:
        assert part in str(refused.value)


def test_a_law_of_too_few_machines_is_refused_before_anything_runs():
    few = ("task=regbench", "task.nodes=[2,2]", "task.letters=[2,2]", "task.edges=[1,1]", "data=cached")
    config_of(*few, "data.train=200").build(Seeds(), 8)
    with pytest.raises(UserError, match=r"data.train = 324, but task.nodes = \[2, 2\]"):
        config_of(*few, "data.train=324").build(Seeds(), 8)


def test_configuration_and_presets_need_no_torch():
    code = "import sys; from inlearn.studies.automata import config, presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", REGBENCH_PRESETS)
def test_presets_compose_and_say_what_they_are(name: str):
    config = compose(discovery.study("automata"), [f"preset={name}"])
    assert config.study.task.kind == "regbench" and REGBENCH_PRESETS[name]["about"]


def test_the_published_preset_has_two_hundred_epochs_of_five_thousand_rows():
    config = compose(discovery.study("automata"), ["preset=regbench"])
    assert config.study.rows_an_epoch == 5000 and config.training.steps * config.training.batch == 200 * 5000
    assert config.training.schedule.warmup == config.training.steps // 10 and config.training.schedule.floor == 0.1


def test_runs_that_differ_in_sizes_of_sets_can_share_a_stack():
    study = discovery.study("automata")
    plain = signature(compose(study, SMALL))
    assert signature(compose(study, [*SMALL, "evaluation.rows=7"])) == plain
    assert signature(compose(study, [*SMALL[:-1], "task.words=[3,6]"])) != plain


# ---------------------------------------------------------------- sets


def test_sets_and_their_sizes():
    study = study_of("evaluation.rows=40")
    assert isinstance(study, RegBenchStudy) and study.monitored == ("train", "validation")
    assert list(study.tasks) == ["train", "validation", "test"]
    assert all(isinstance(task, Task) for task in study.tasks.values())
    assert [study.evaluation_rows(name) for name in study.tasks] == [40, 40, 40]
    assert study.interface.inputs == Tokens(20) and study.interface.outputs == Tokens(20, among=18)
    cached = study_of("data=cached", "data.train=30", "data.validation=20", "data.test=10", "evaluation.rows=25")
    assert [cached.evaluation_rows(name) for name in cached.tasks] == [25, 20, 10]
    assert [cached.finite_rows(name) for name in cached.tasks] == [30, None, None]
    assert study_of("data=fresh").finite_rows("train") is None


def test_cached_rows_are_the_same_for_every_run_and_change_with_their_own_seed():
    here = Address(Seeds().following(1), "eval")
    sized = ("data=cached", "data.train=30")
    for name in ("train", "validation", "test"):
        one, other = (study_of(*sized, seed=seed).tasks[name].sample(here, 20) for seed in (1, 2))
        assert torch.equal(one.inputs, other.inputs)
        moved = study_of(*sized, "data.seed=43").tasks[name].sample(here, 20)
        assert not torch.equal(one.inputs, moved.inputs)
    orders = [
        study_of(*sized, seed=s).tasks["train"].sample(Address(Seeds().following(s), "data", 3), 8) for s in (1, 2)
    ]
    assert not torch.equal(orders[0].inputs, orders[1].inputs)


def test_held_out_machines_are_never_trained_on():
    for data in (("data=fresh",), ("data=cached", "data.train=300")):
        study = study_of(*data)
        here = Address(Seeds().following(1), "eval")
        names = [
            set(identities(study.tasks[n].sample(here, 300).latents.dfas)) for n in ("train", "validation", "test")
        ]
        assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]


def test_a_description_tells_sizes_learners_and_a_machine():
    tables = dict(study_of("data=cached", "data.train=30").describe())
    facts = {row["fact"]: row["value"] for row in tables["The problem"]}
    assert facts["training DFAs"] == "30" and facts["nodes of a DFA before minimisation"] == "4 to 5"
    learners = {row["learner"]: row for row in tables["Ideal learners on 64 test rows"]}
    assert list(learners) == ["oracle", "trigram", "bigram", "unigram", "uniform"]
    order = [learners[name]["loss (nats)"] for name in ("oracle", "uniform")]
    assert order[0] < order[1] == 2.8904 and learners["oracle"]["accuracy"] == 1.0
    sizes = tables["Nodes of 64 test DFAs, as drawn and at least"]
    assert sum(row["as drawn"] for row in sizes) == sum(row["minimal"] for row in sizes) == 64


def test_learners_lines_are_finite_but_for_none():
    study = study_of("evaluation.rows=30")
    lines = Evaluator(study, Seeds().following(1)).references()
    own = {(line["learner"], line["set"], line["measure"], tuple(line["by"])) for line in lines}
    assert {("trigram", "validation", "total_variation", ("word",)), ("oracle", "train", "l1", ())} <= own
    for line in lines:
        if line["measure"] != "distance" or line["reference"] == "oracle":
            assert None not in line["mean"], line


# ---------------------------------------------------------------- a model


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    torch.set_num_threads(1)
    asked = (
        *SMALL, "training.batch=32", "training.steps=100", "training.rate=0.01", "evaluation.rows=64",
        *("model=transformer", "model.width=32", "model.layers=2", "model.heads=2", "model.mlp=0"),
        *('record.evaluations={"kind":"every","steps":50}', 'record.checkpoints={"kind":"never"}'),
    )  # fmt: skip
    return start("automata", asked, tmp_path_factory.mktemp("runs"), lambda text: None)


def test_a_small_transformer_learns_which_letters_a_row_has(learnt):
    table = evaluation_table(learnt.folder)
    rows = table[(table["set"] == "validation") & (table["by"] == "")]
    value = {(r.learner, r.measure, r.step): r.mean for r in rows.itertuples() if not isinstance(r.reference, str)}
    last = max(step for learner, _, step in value if learner == "model")
    ideal = {key[:2]: mean for key, mean in value.items() if key[0] != "model"}
    assert value["model", "loss", last] < ideal["uniform", "loss"] - 0.5
    assert value["model", "accuracy", last] > 2 * ideal["uniform", "accuracy"]
    assert value["model", "loss", last] > ideal["oracle", "loss"]


def test_its_charts_compile(learnt):
    table = evaluation_table(learnt.folder)
    found = charts(table)
    assert [title for title, _, _ in found] == [
        "Letters that may follow, by word",
        "Letters that may follow, within words",
        "Distance from the true distribution, by word",
        "Distance from the true distribution, within words",
    ]
    for _, caption, chart in found:
        assert caption.endswith(".")
        assert "step 100" in vl_convert.vegalite_to_svg({**chart.to_dict(), "width": 500})
    assert charts(table[:0]) == []
