"""Which runs can be trained together: what the signature says, against the tensors that runs are really made of."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from inlearn.core.draws import Address
from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.build import build, build_model
from inlearn.lab.config import compose, dotted_keys
from inlearn.lab.footprint import footprint
from inlearn.lab.signature import alone, check_alike, first_difference, signature


def asked(tiny, *words: str):
    changed = {word.partition("=")[0] for word in words}
    kept = [word for word in tiny if word.partition("=")[0] not in changed]
    return compose(discovery.study("regression"), [*kept, *words])


ALIKE = [
    ["seed=7", "seeds.data=3", "name=x", 'tags=["a"]', "track.tensorboard=true"],
    ['record.evaluations={"kind":"never"}', "record.training=3", "execution.log_level=error"],
    ["training.rate=0.3", "training.schedule=cosine", "training.clip=0.5", "training.until=20"],
    ["training.stop.below=0.1"],
    ["training.optimiser=adam", "training.optimiser.weight_decay=0.1", "training.optimiser.betas=[0.5,0.6]"],
    ["task.count=16", "task.noise_variance=2", "task.prior_variance=3", "evaluation.rows=8", "evaluation.gains=[2]"],
    ["task.vector=[1,2]"],
    ["task.sequences=33"],
    ["model.init=normal", "model.init_std=0.5", "execution.engine=stacked", "execution.parallel=none"],
]


@pytest.mark.parametrize("words", ALIKE, ids=lambda words: words[0])
def test_runs_of_one_signature_have_tensors_of_the_same_shapes(tiny, words):
    one, other = asked(tiny), asked(tiny, *words)
    assert signature(one) == signature(other) and first_difference(one, other) is None
    check_alike([one, other])
    assert shapes(one) == shapes(other)


def shapes(config):
    """Of the training batch and the weights, and how many buffers the optimiser keeps."""
    built = build(config)
    batch = built.tasks[0].sample(Address(config.seeds.following(config.seed), "data", 0), config.training.batch)
    model = build_model(config, built.study.interface, torch.device("cpu"))
    tensors = [*model.state_dict().items(), *((n, getattr(batch, n)) for n in ("inputs", "targets", "weights"))]
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors}


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["model.width=32"], "model.width"),
        (["task.examples=4"], "task.examples"),
        (["task.dimension=3"], "task.dimension"),
        (["outputs=token"], "outputs"),
        (["training.batch=8"], "training.batch"),
        (["training.steps=61"], "training.steps"),
        (["training.optimiser=adamw"], "training.optimiser.kind"),
        (["model.dropout=0.1"], "model.dropout"),
        (["precision=float64"], "precision"),
        (["threads=2"], "execution.threads"),
        (["device=cpu"], "execution.device"),
        (['training.phases=[{"steps":20,"study":{"task":{"count":1}}},{"steps":40}]'], "training.phases"),
    ],
)
def test_the_key_in_which_runs_differ_is_named(tiny, words, key):
    one, other = asked(tiny), asked(tiny, *words)
    assert signature(one) != signature(other)
    assert first_difference(one, other)[0] == key
    with pytest.raises(UserError, match=rf"^{key} = .* and {key} = .* cannot be trained together"):
        check_alike([one, asked(tiny, "seed=3"), other])


def test_a_momentum_is_a_buffer_and_its_size_is_not(tiny):
    none, some, more = (
        asked(tiny, "training.optimiser=sgd", f"training.optimiser.momentum={m}") for m in (0, 0.1, 0.9)
    )
    nesterov = asked(
        tiny, "training.optimiser=sgd", "training.optimiser.momentum=0.9", "training.optimiser.nesterov=true"
    )
    assert signature(some) == signature(more) != signature(none)
    assert first_difference(more, nesterov)[0] == "training.optimiser.nesterov"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["training.accumulate=2"], "training.accumulate = 2"),
        (["execution.engine=solo"], "execution.engine = solo"),
        (["execution.parallel=ddp"], "execution.parallel = ddp"),
        (['training.phases=[{"steps":20,"end":{"below":1}},{"steps":40}]'], "training.phases.0.end is a condition"),
    ],
)
def test_some_runs_are_always_trained_alone(tiny, words, why):
    config = asked(tiny, *words)
    assert signature(config) is None and alone(config).startswith(why)
    with pytest.raises(UserError, match=f"{why}.*trained alone"):
        check_alike([asked(tiny), config])


def test_what_changes_no_shape_exists():
    """A misspelt key in SHAPELESS would split stacks without a word."""
    configs = [found.config for found in discovery.studies().values()] + list(discovery.models().values())
    assert any(config.SHAPELESS for config in configs)
    for config in configs:
        assert not config.SHAPELESS - dotted_keys(config), config


def test_signatures_need_no_torch():
    code = "import sys, inlearn.lab.signature, inlearn.sweeps.stacking; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------- what a run takes


def test_parameters_and_tokens_are_counted(tiny, lookup):
    cost = footprint(asked(tiny))
    built = build(asked(tiny))
    model = build_model(built.config, built.study.interface, torch.device("cpu"))
    batch = built.tasks[0].sample(Address(built.config.seeds.following(0), "data", 0), built.config.training.batch)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.tokens == batch.weights.numel() and cost.work == cost.parameters * cost.tokens
    small = ["model.width=8", "model.layers=1", "model.heads=1", "cells=5", "queries=3", "training.batch=12"]
    shared = footprint(compose(discovery.study(lookup), small))
    assert shared.tokens == 12 + 4 * 5  # one question a row, and a context of five cells for every three of them


def test_memory_grows_with_the_batch_the_width_and_the_moments(tiny):
    plain, wide = footprint(asked(tiny)), footprint(asked(tiny, "model.width=32"))
    long = footprint(asked(tiny, "training.batch=160"))
    sgd = footprint(asked(tiny, "training.optimiser=sgd"))
    assert wide.bytes > plain.bytes
    weights = 4 * plain.parameters
    assert plain.bytes - sgd.bytes == 2 * weights
    assert long.bytes - 4 * weights == 10 * (plain.bytes - 4 * weights)
    assert footprint(asked(tiny, "precision=float64")).bytes > 1.7 * plain.bytes
