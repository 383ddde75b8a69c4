"""Sweep files of W&B: what its agent renders from ours trains what was meant; those of the seeds are plans."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.config import compose
from inlearn.lab.request import request
from inlearn.runs.folder import list_runs
from inlearn.sweeps.plan import Plan, points, read_plan
from inlearn.sweeps.planned import planned
from inlearn.sweeps.wandb import export, is_sweep, read


def rendered(sweep: dict, arguments: dict) -> list[str]:
    """The words that `wandb agent` runs for one choice of arguments, as `Agent._command_run` puts them together.

    The arguments take the way through JSON that they take through W&B's server.
    """
    from wandb.sdk.launch.sweeps import utils

    command = json.loads(json.dumps({"args": {key: {"value": value} for key, value in arguments.items()}}))
    variables = utils.create_sweep_command_args(command)
    words = []
    for word in utils.create_sweep_command(list(sweep["command"])):
        if word.startswith("${") and word.endswith("}"):
            words += variables.get(word[2:-1]) or []
        else:
            words.append(word)
    return words


def choices(sweep: dict) -> list[dict]:
    """Every choice that a grid makes."""
    found = [{}]
    for key, node in sweep["parameters"].items():
        many = node["values"] if "values" in node else [node["value"]]
        found = [{**choice, key: value} for choice in found for value in many]
    return found


def through_yaml(document: dict) -> dict:
    return yaml.safe_load(yaml.safe_dump(document, sort_keys=False))


PLAN = Plan(
    study="regression",
    name="every-type",
    set={
        "preset": "demo",
        "model.head_bias": False,
        "training.clip": None,
        "training.rate": 1e-5,
        "evaluation.gains": [2.0, 4],
        "record.evaluations": {"kind": "every", "steps": 50},
        "tags": ["a", "b"],
        "name": None,
    },
    grid={
        "task.count": "1, 16, inf",
        "seed": "range(2)",
        "training.optimiser": ["sgd", '{"kind": "adamw", "weight_decay": 0.5}'],
        "model.mlp": [None, 32],
    },
)


def test_what_the_agent_renders_is_what_the_plan_means():
    """Numbers, truth values, nothing, words, lists, nested values: as many runs, each the same configuration."""
    found = discovery.study("regression")
    sweep = through_yaml(export(PLAN))
    meant = [compose(found, [f"{key}={value}" for key, value in point.items()]) for point in points(PLAN)[0]]
    run = [rendered(sweep, choice) for choice in choices(sweep)]
    assert all(words[:3] == ["inlearn", "run", "regression"] for words in run)
    assert [compose(found, words[3:]) for words in run] == meant and len(meant) == 3 * 2 * 2 * 2


@pytest.mark.parametrize(
    "value, key, meant",
    [
        (3, "training.batch", 3),
        (1e-05, "training.rate", 1e-5),
        (True, "model.head_bias", True),
        (False, "model.head_bias", False),
        (None, "training.clip", None),
        ("layernorm", "model.norm", "layernorm"),
        ("inf", "task.count", "inf"),
        ([3.0, 5], "evaluation.gains", (3.0, 5.0)),
        (["one", "it's"], "tags", ("one", "it's")),
        ({"kind": "sgd", "nesterov": False}, "training.optimiser", {"kind": "sgd", "nesterov": False}),
    ],
)
def test_python_values_in_a_users_own_sweep_are_understood(value, key, meant):
    """A user who writes the sweep file by hand gets Python's spelling of each value from the agent."""
    words = rendered({"command": ["inlearn", "run", "regression", "${args_no_hyphens}"]}, {key: value})
    node = compose(discovery.study("regression"), words[3:])
    for name in (f"study.{key}" if key.startswith(("task", "evaluation")) else key).split("."):
        node = getattr(node, name)
    assert (node.model_dump(include=set(meant)) if isinstance(meant, dict) else node) == meant


@pytest.mark.parametrize("text", ["[1, __import__('os')]", "{1, 2}", "[b'a']", "{1: 2}", "[(1, 2)]", "[1", "[" * 5000])
def test_nothing_else_of_python_is_read(text):
    with pytest.raises(UserError, match=r"starts like JSON but is not"):
        compose(discovery.study("regression"), [f"tags={text}"])


def test_a_rendered_command_trains_and_logs(tiny, tmp_path):
    """The real words, in a process that the agent's environment surrounds, with W&B offline."""
    shared = dict(text.split("=", 1) for text in tiny)
    sweep = through_yaml(export(Plan(study="regression", name="two", set=shared, grid={"seed": [0, 1]})))
    words = rendered(sweep, choices(sweep)[1])
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"WANDB_MODE": "offline", "WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1", "WANDB_DIR": str(tmp_path)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = list_runs(tmp_path / "runs")
    assert run.status.state == "finished" and run.config["config"]["seeds"]["init"] == 1
    (place,) = (run.path / "wandb").glob("offline-run-*-r1")
    assert (place / "run-r1.wandb").stat().st_size > 10_000


@pytest.mark.parametrize(
    "more, said",
    [
        ({"zip": ({"model.width": [32, 64], "training.rate": [1, 2]},)}, "this plan has 'zip'"),
        ({"exclude": ({"seed": 1},)}, "this plan has 'exclude'"),
        ({"when": ({"if": {"seed": 1}, "set": {"tags": ["a"]}},)}, "this plan has 'when'"),
        ({"set": {"name": "s{seed}"}}, "name refers to an axis"),
        ({"set": {"training.rat": 1}}, "did you mean 'training.rate'"),
        ({"set": {"training.rate": -1}}, "training.rate"),
        ({"grid": {"$x": [1, 2]}}, r"\$x is there to be referred to"),
    ],
)
def test_what_a_sweep_cannot_say_is_refused(more, said):
    plan = Plan.model_validate({"study": "regression", "grid": {"seed": [0, 1]}} | more)
    with pytest.raises(UserError, match=said):
        export(plan)


def test_project_and_entity_are_the_sweeps_own():
    plan = Plan(study="regression", set={"track.project": "p", "track.entity": "e"}, grid={"seed": [0, 1]})
    sweep = export(plan)
    assert (sweep["project"], sweep["entity"]) == ("p", "e") and list(sweep["parameters"]) == ["seed"]
    assert read(sweep)["set"] == {"track.project": "p", "track.entity": "e"}


# ---------------------------------------------------------------- reading


def test_an_exported_sweep_reads_as_the_plan_it_was(tmp_path):
    plan = Plan(
        study="regression", name="there-and-back", set={"preset": "demo"}, grid={"task.count": "powers(2, 0, 4)"}
    )
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(export(plan)))
    back = read_plan(file)
    assert back.name == plan.name and points(back) == points(plan)


OWN = """
name: nested
method: grid
command: [inlearn, run, regression, preset=demo, "${args_no_hyphens}"]
metric: {name: train/loss, goal: minimize}
parameters:
  task:
    parameters:
      count: {values: [1, 16, inf]}
      noise_variance: {value: 0.125}
  model: {parameters: {norm: {values: [layernorm, none], distribution: categorical}}}
  seed: {value: 3}
"""


def test_nested_parameters_are_dotted_keys(tmp_path):
    document = yaml.safe_load(OWN)
    assert is_sweep(document)
    assert read(document) == {
        "study": "regression",
        "name": "nested",
        "set": {"preset": "demo", "task.noise_variance": 0.125, "seed": 3},
        "grid": {"task.count": [1, 16, "inf"], "model.norm": ["layernorm", "none"]},
    }
    (tmp_path / "own.yaml").write_text(OWN)
    runs, remarks = planned(read_plan(tmp_path / "own.yaml"), tmp_path)
    assert len(runs) == 6 and not remarks


def published(fixed: dict, axes: dict, lr: object = 0.003, rows: int = 1024, steps: int | None = 100) -> dict:
    """A training sweep of timaeus-research/icl in the shape of its files."""
    task = {key: {"value": value} for key, value in fixed.items()} | {key: {"values": v} for key, v in axes.items()}
    parameters = {
        "task_config": {"parameters": task},
        "optimizer_config": {"parameters": {"lr": {"values": lr} if isinstance(lr, list) else {"value": lr}}},
        "eval_batch_size": {"value": rows},
    }
    if steps is not None:
        leaf = {"parameters": {"log_space": {"value": 100}, "linear_space": {"value": steps}}}
        parameters["checkpointer_config"] = {"parameters": {"checkpoint_steps": leaf}}
    return {
        "name": "published",
        "method": "grid",
        "command": ["python", "src/icl/regression/train.py"],
        "project": "icl",
        "parameters": parameters,
    }


SMALL = {"task_size": 4, "noise_variance": 0.125, "embed_size": 64, "mlp_size": 64, "num_heads": 4, "num_layers": 2}
DEEP = {"task_size": 8, "max_examples": 16, "embed_size": 128, "mlp_size": 128, "num_heads": 2, "num_layers": 8}
FREE = {"pretrain_seed": None, "true_seed": None, "sampling_seed": None}
PAPER = {**SMALL, **FREE, "max_examples": 8, "num_tasks": "inf", "include_output": True}
COUNTS = [1 << power for power in range(21)]
SEEDED = ["seeds.task=1", "seeds.eval=2", "seeds.data=3", "seeds.noise=3"]  # the defaults of the published code


@pytest.mark.parametrize(
    "sweep, meant",
    [
        (
            published(PAPER, {"model_seed": [0, 1, 2, 3, 4], "layer_norm": [True, False]}),
            [["preset=paper-lr", f"seed={s}", f"model.norm={n}"] for s in range(5) for n in ("layernorm", "none")],
        ),
        (
            published({**PAPER, "max_examples": 16, "model_seed": 0}, {"num_tasks": COUNTS}, steps=10_000),
            [[f"preset=finite-m{count}"] for count in COUNTS],
        ),
        (
            published({**SMALL, "max_examples": 8, "model_seed": 0}, {"num_tasks": COUNTS}, lr=0.01, steps=None),
            [[f"preset=taskprior-m{count}", *SEEDED] for count in COUNTS],
        ),
        (
            published(
                DEEP, {"num_tasks": [1, 16], "noise_variance": [0.25, 0.03125]}, lr=0.001, rows=2048, steps=None
            ),
            [[f"preset=deep-noiseless-m{m}-p{p}", *SEEDED] for m in (1, 16) for p in (2, 5)],
        ),
        (  # the sampling seed is null, so sequences follow the tasks' seed
            published(
                {**SMALL, "max_examples": 8, "num_tasks": 64, "true_seed": 2, "sampling_seed": None},
                {"pretrain_seed": [10, 20]},
                lr=0.01,
            ),
            [
                ["preset=taskprior-m64", "seeds.eval=2", *(f"seeds.{x}={s}" for x in ("task", "data", "noise"))]
                for s in (10, 20)
            ],
        ),
    ],
    ids=["paper", "finite", "task-prior", "noiseless", "data-seeds"],
)  # fmt: skip
def test_published_sweeps_are_the_published_presets(sweep, meant, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep, sort_keys=False))
    runs, remarks = planned(read_plan(file), tmp_path)
    found = discovery.study("regression")
    assert sorted(run.id for run in runs) == sorted(request(found, words, tmp_path).id for words in meant)
    assert not remarks


def test_early_sweeps_had_their_keys_at_the_top():
    sweep = {"method": "grid", "program": "icl", "parameters": {"num_tasks": {"values": [8, 32768]}}}
    assert read(sweep)["grid"] == {"task.count": [8, 32768]}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"method": "bayes"}, "method = bayes"),
        ({"early_terminate": {"type": "hyperband"}}, "unknown key 'W&B sweep: early_terminate'"),
        ({"parameters": {"seed": {"min": 0, "max": 9}}}, "parameter seed has 'min'"),
        (
            {"parameters": {"training.rate": {"distribution": "log_uniform_values", "min": 1, "max": 2}}},
            "'distribution'",
        ),
        ({"parameters": {"seed": 3}}, "parameter seed = 3: expected a mapping"),
        ({"parameters": {"seed": {"values": 3}}}, "parameter seed: values = 3: expected a list"),
        ({"parameters": {"seed": {"value": 3, "values": [4]}}}, "expected one of value, values and parameters"),
        ({"parameters": [1]}, "expected a mapping of keys"),
        ({"command": ["python", "train.py"]}, r"command = python train.py: expected \[inlearn, run, STUDY"),
        ({"command": ["inlearn", "run", "regression"]}, "expected .inlearn, run, STUDY"),
        ({"command": "python icl/train.py"}, "unknown key 'icl sweep: seed'"),
        ({"command": ["inlearn", "run", "regression", "--force", "${args_no_hyphens}"]}, "'--force' is not key=value"),
    ],
)
def test_what_is_no_list_of_runs_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        read(yaml.safe_load(OWN) | {"parameters": {"seed": {"value": 1}}} | change)
