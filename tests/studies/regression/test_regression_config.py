"""What the regression study's configuration accepts, what it refuses and in which words; the presets."""

from __future__ import annotations

import subprocess
import sys

import pytest

from inlearn.core.configuration import assign, resolve
from inlearn.core.errors import UserError
from inlearn.studies.regression.config import RegressionConfig
from inlearn.studies.regression.presets import PRESETS


def config_of(*overrides: str) -> RegressionConfig:
    tree: dict = {}
    for override in overrides:
        key, _, value = override.partition("=")
        assign(RegressionConfig, tree, key, value)
    return resolve(RegressionConfig, tree)


def test_counts_are_numbers_or_the_word_inf():
    assert config_of("task.count=16").task.count == 16
    assert config_of("task.count=inf").task.count == "inf"
    assert config_of("task.sequences=1000").task.sequences == 1000


@pytest.mark.parametrize(
    "override",
    [
        "task.count=0",
        "task.count=-3",
        "task.count=2.5",
        "task.count=many",
        "task.sequences=0",
        "task.noise_variance=-0.1",
        "task.noise_variance=nan",
        "task.prior_variance=0",
        "task.dimension=0",
        "task.examples=0",
        "outputs=both",
        "evaluation.rows=0",
        "evaluation.gains=[]",
        "evaluation.gains=[3, -1]",
    ],
)
def test_impossible_values_are_refused_by_name(override: str):
    key, _, value = override.partition("=")
    with pytest.raises(UserError) as refused:
        config_of(override)
    assert key in str(refused.value)
    assert value.strip("[]").split(",")[-1].strip() in str(refused.value)


def test_unknown_keys_name_the_nearest():
    with pytest.raises(UserError, match=r"task\.noise_variance"):
        config_of("task.noise_varience=1")


def test_the_distribution_follows_from_count_and_vector():
    assert config_of().task.distribution == "gaussian"
    assert config_of("task.count=1").task.distribution == "discrete"
    assert config_of("task.vector=[1, 0, 0, 0]").task.distribution == "singleton"


@pytest.mark.parametrize("overrides", [("task.vector=[1, 2]",), ("task.vector=[1, 2, 3, 4]", "task.count=7")])
def test_a_vector_must_fit_the_rest(overrides: tuple[str, ...]):
    with pytest.raises(UserError, match=r"task\.vector"):
        config_of(*overrides)


def test_configuration_and_presets_need_no_torch():
    code = (
        "import sys, inlearn.studies.regression.config, inlearn.studies.regression.presets;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- presets


def published(name: str) -> dict:
    """D, K, M and the noise variance of a preset."""
    task = resolve(RegressionConfig, PRESETS[name]["study"]).task
    return {"D": task.dimension, "K": task.examples, "M": task.count, "noise": task.noise_variance}


def test_presets_have_the_published_problems():
    assert published("paper-lr") == {"D": 4, "K": 8, "M": "inf", "noise": 0.125}
    assert published("main-lr") == {"D": 4, "K": 16, "M": "inf", "noise": 0.125}
    assert published("finite-m1048576") == {"D": 4, "K": 16, "M": 1 << 20, "noise": 0.125}
    assert published("taskprior-m32") == {"D": 4, "K": 8, "M": 32, "noise": 0.125}
    assert published("deep-lr") == {"D": 8, "K": 16, "M": "inf", "noise": 0.25}
    assert published("deep-lr-m64") == {"D": 8, "K": 16, "M": 64, "noise": 0.25}
    assert published("deep-noiseless-m256-p11") == {"D": 8, "K": 16, "M": 256, "noise": 0.00048828125}
    assert published("raventos") == {"D": 8, "K": 16, "M": "inf", "noise": 0.25}


def test_presets_are_complete_and_do_not_share_their_parts():
    families = [name.rpartition("-m")[0] for name in PRESETS]
    assert families.count("finite") == families.count("taskprior") == 21
    assert families.count("deep-noiseless") == 24
    for name, preset in PRESETS.items():
        assert set(preset) == {"about", "study", "model", "training", "record"}, name
        assert preset["model"]["width"] % preset["model"]["heads"] == 0
    assert len({id(preset["study"]["task"]) for preset in PRESETS.values()}) == len(PRESETS)


@pytest.mark.parametrize("name", ["demo", "paper-lr", "raventos"])
def test_the_triangle_divides_by_half_the_steps_less_one(name: str):
    training = PRESETS[name]["training"]
    assert training["schedule"]["initial_division"] == training["steps"] / 2 - 1
    assert training["schedule"]["final_division"] == training["steps"] / 2 - 1
