"""What the keys of timaeus-research/icl's training sweeps are called here, so that its published files are plans.

A key that a sweep leaves out had its code's default there: preset `deep-lr-m64`, and seeds 0, 1, 2, 3. A seed of
null meant "go on with the generator as it is": here such streams follow `seed`, or the tasks' seed where that is
given; evaluation sets stay the same for every run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from inlearn.core.errors import unknown

PRESET = "deep-lr-m64"

KEYS = {
    "task_config.task_size": "task.dimension",
    "task_config.max_examples": "task.examples",
    "task_config.num_tasks": "task.count",
    "task_config.noise_variance": "task.noise_variance",
    "task_config.embed_size": "model.width",
    "task_config.mlp_size": "model.mlp",
    "task_config.num_heads": "model.heads",
    "task_config.num_layers": "model.layers",
    "task_config.layer_norm": "model.norm",
    "task_config.include_output": "model.output_projection",
    "task_config.model_seed": "seed",
    "task_config.pretrain_seed": "seeds.task",
    "task_config.true_seed": "seeds.eval",
    "task_config.sampling_seed": "seeds.data",
    "checkpointer_config.checkpoint_steps.log_space": "record.checkpoints.log",
    "checkpointer_config.checkpoint_steps.linear_space": "record.checkpoints.linear",
    "optimizer_config.lr": "training.rate",
    "eval_batch_size": "evaluation.rows",
}
SEEDS = {"seed": 0, "seeds.task": 1, "seeds.eval": 2, "seeds.data": 3}
NORMS = {True: "layernorm", False: "none"}


def is_published(command: Sequence[str]) -> bool:
    """Whether a sweep's command is the training script of that project, wherever it lay at the time."""
    return any(re.fullmatch(r"(.*/)?icl/(regression/)?train\.py|icl", word) for word in command)


def translated(fixed: Mapping[str, Any], axes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(set, grid) of our plan. Raises `UserError` for a key that is no training key of theirs."""
    grid = {_key(key): _values(key, many) for key, many in axes.items()}
    given = {_key(key): _values(key, [value])[0] for key, value in fixed.items()}
    seeds = {key: seed for key, seed in (SEEDS | given).items() if key in SEEDS and key not in grid}
    null = [key for key, seed in seeds.items() if seed is None and key != "seed"]
    plain = {key: value for key, value in (given | seeds).items() if key not in null}
    if "seeds.data" not in null:
        plain["seeds.noise"] = "{seeds.data}"  # one generator drew both
    elif "seeds.task" not in null:
        plain |= {"seeds.data": "{seeds.task}", "seeds.noise": "{seeds.task}"}
    return {"preset": PRESET} | plain, grid


def _key(theirs: str) -> str:
    """Early sweeps have the keys of task_config at the top."""
    ours = KEYS.get(theirs) or KEYS.get(f"task_config.{theirs}")
    if ours is None:
        raise unknown("key", theirs, KEYS, "icl sweep: ")
    return ours


def _values(theirs: str, many: Sequence[Any]) -> list[Any]:
    return [NORMS.get(value, value) for value in many] if theirs.endswith("layer_norm") else list(many)
