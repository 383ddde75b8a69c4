"""Presets are the published settings, and each can be built."""

from __future__ import annotations

import pytest
import torch

from inlearn.core.draws import Address
from inlearn.lab import discovery
from inlearn.lab.build import build_model
from inlearn.lab.config import Seeds, compose
from inlearn.studies.automata.presets import PRESETS

EVAL = Address(Seeds().following(0), "eval")

PUBLISHED = {  # states, actions, actions of a demonstration and of a query, the longest row, epochs
    "3s3a": (3, 3, 19, 19, 185, 16),
    "3s3a-30": (3, 3, 30, 30, 297, 10),
    "5s5a": (5, 5, 80, 80, 777, 32),
    "5s5a-90": (5, 5, 90, 100, 897, 10),
    "5s8a": (5, 8, 70, 147, 865, 48),
    "8s8a": (8, 8, 80, 266, 1223, 100),
    "absorption": (5, 5, 60, 80, 633, 32),
}


def asked(*overrides: str):
    return compose(discovery.study("automata"), list(overrides))


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_published_ones(name: str):
    states, actions, demo, query, longest, epochs = PUBLISHED[name]
    config = asked(f"preset={name}")
    task, data, training = config.study.task, config.study.data, config.training
    assert (task.states, task.actions, task.demos) == (states, actions, 3)
    assert (task.walk(task.demo_length), task.walk(task.query_length), task.length) == (demo, query, longest)
    assert task.absorbing == ("one" if name == "absorption" else "any")
    assert (data.train, data.validation, data.test) == (6000, 2000, 2000)
    assert (training.steps, training.batch, training.clip, training.rate) == (epochs * 750, 8, 1.0, 1e-3)
    assert (training.optimiser.kind, training.optimiser.weight_decay) == ("adamw", 0.0)
    assert config.study.supervision == "query"


def test_other_names():
    for name, other in (("easy", "3s3a"), ("standard", "5s5a"), ("hard", "5s8a")):
        assert {**PRESETS[name], "about": ""} == {**PRESETS[other], "about": ""}


@pytest.mark.parametrize(
    "width, head, parameters", [(64, "all", 68416), (256, "states", 1059328), (64, "states", 68224)]
)
def test_the_small_and_large_lstm_have_as_many_parameters_as_published(width: int, head: str, parameters: int):
    config = asked("preset=5s5a", "data=fresh", "training.steps=1", f"model.width={width}", f"task.head={head}")
    study = config.study.build(Seeds().following(0), 8)
    model = build_model(config, study.interface, torch.device("cpu"))
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) | {"demo"}))
def test_every_preset_can_be_drawn(name: str):
    config = asked(f"preset={name}", "data=cached", "data.train=10", "data.validation=3", "data.test=3",
                   "training.steps=200")  # fmt: skip
    study = config.study.build(Seeds().following(0), config.training.batch)
    for task in study.tasks.values():
        task.sample(EVAL, 3).check(task.interface)
