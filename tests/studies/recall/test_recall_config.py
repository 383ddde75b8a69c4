"""What the recall study's configuration accepts, what it refuses and in which words; the presets."""

from __future__ import annotations

import subprocess
import sys

import pytest

from inlearn.core.configuration import resolve
from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.config import compose
from inlearn.lab.signature import signature
from inlearn.studies.recall.config import RecallConfig
from inlearn.studies.recall.presets import FIGURE_2, PRESETS


def config_of(*overrides: str) -> RecallConfig:
    return compose(discovery.study("recall"), overrides).study


def test_pairs_are_a_number_or_a_list():
    assert config_of("task.pairs=3").task.counts == (3,)
    assert config_of("task.pairs=[2, 2, 5]").task.counts == (2, 2, 5)


def test_capacity_is_what_fits():
    assert config_of("task.length=64").task.capacity == 16
    assert config_of("task.length=64", "task.passes=3").task.capacity == 8
    assert config_of("task.length=512", "task.vocabulary=64").task.capacity == 31
    config_of("task.length=64", "task.pairs=16")
    config_of("task.length=512", "task.pairs=31")


def test_evaluated_pairs_are_powers_of_two_and_trainings_own():
    assert config_of("task.pairs=[3, 6, 3]").evaluated_pairs == (1, 2, 3, 4, 6, 8, 16)
    assert config_of("evaluation.pairs=[7, 2]").evaluated_pairs == (2, 7)
    assert config_of("task.length=4", "task.pairs=1").evaluated_pairs == (1,)


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["task.pairs=17"], ["task.pairs = 17", "68 symbols", "task.length = 64", "at most 16", "at least 68"]),
        (["task.pairs=[2, 40]"], ["task.pairs = 40", "task.vocabulary = 64", "31 keys", "at most 16", "at least 82"]),
        (["task.passes=4", "task.pairs=7"], ["task.pairs = 7 takes 70", "every pair 4 times", "at most 6 pairs"]),
        (["task.length=63"], ["task.length = 63 is odd", "64"]),
        (["task.vocabulary=65"], ["task.vocabulary = 65 is odd", "66"]),
        (["evaluation.pairs=[4, 33]"], ["evaluation.pairs = 33", "31 keys"]),
        (["evaluation.pairs=[4, 17]"], ["evaluation.pairs = 17", "at most 16"]),
        (["evaluation.pairs=[4, 4]"], ["evaluation.pairs", "twice"]),
        (["task.pairs=0"], ["task.pairs", "0"]),
        (["task.pairs=[]"], ["task.pairs"]),
        (["task.pairs=[2, -1]"], ["task.pairs", "-1"]),
        (["task.pairs=2.5"], ["task.pairs", "2.5"]),
        (["evaluation.pairs=[]"], ["evaluation.pairs"]),
        (["task.power=0"], ["task.power", "0"]),
        (["task.power=nan"], ["task.power", "nan"]),
        (["task.passes=0"], ["task.passes", "0"]),
        (["task.filler=noise"], ["task.filler", "noise", "random", "zero"]),
        (["task.vocabulary=2"], ["task.vocabulary", "2"]),
        (["task.pars=4"], ["pars", "task.pairs"]),
        (["evaluation.pair_rows=0"], ["evaluation.pair_rows", "0"]),
    ],
)
def test_what_cannot_be_is_refused_by_name(overrides: list[str], told: list[str]):
    with pytest.raises(UserError) as refused:
        config_of(*overrides)
    for part in told:
        assert part in str(refused.value)


def test_runs_that_differ_in_pairs_and_gaps_can_share_a_stack():
    study = discovery.study("recall")
    plain = signature(compose(study, []))
    other = ["task.pairs=[2, 3]", "task.power=1", "task.passes=2", "task.filler=zero", "evaluation.rows=3"]
    assert signature(compose(study, other)) == plain
    assert signature(compose(study, ["task.length=66"])) != plain
    assert signature(compose(study, ["task.vocabulary=66"])) != plain


def test_configuration_and_presets_need_no_torch():
    code = "import sys, inlearn.studies.recall.config, inlearn.studies.recall.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- presets


@pytest.mark.parametrize("length", FIGURE_2)
def test_figure_2_has_the_published_sizes(length: int):
    pairs, batch = {64: (4, 512), 128: (8, 512), 256: (16, 256), 512: (64, 128)}[length]
    preset = PRESETS[f"figure2-{length}"]
    study, training = resolve(RecallConfig, preset["study"]), preset["training"]
    assert (study.task.vocabulary, study.task.length, study.task.counts) == (8192, length, (pairs,))
    assert study.evaluation.rows == 3000 and study.task.filler == "zero" and study.task.power == 0.01
    assert training["batch"] == batch and training["steps"] * batch == 64 * 100_000
    assert training["optimiser"]["weight_decay"] == 0.1 and training["schedule"]["kind"] == "cosine"


def test_the_mixture_is_four_pairs_in_five_rows_of_nine():
    counts = resolve(RecallConfig, PRESETS["mixture"]["study"]).task.counts
    shares = {count: counts.count(count) / len(counts) for count in counts}
    rows = {4: 100_000, 8: 20_000, 16: 20_000, 32: 20_000, 64: 20_000}
    assert shares == pytest.approx({count: some / 180_000 for count, some in rows.items()})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_compose_and_say_what_they_are(name: str):
    config = compose(discovery.study("recall"), [f"preset={name}"])
    assert config.model.layers == 2 and PRESETS[name]["about"]
