"""Started by torchrun or alone: trains a model some of whose parameters its loss does not depend on.

    [torchrun ...] idle_driver.py JOBS.json

JOBS.json lists the arguments of `train`, which leaves weights and optimiser in `target`, a safetensors file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inlearn.lab import build, discovery
from inlearn.lab.request import request
from inlearn.training.ranks import Ranks, joined
from inlearn.training.trainer import Trainer


class Idle(nn.Module):
    """A model between parameters that it does not use: the first of all, and the last."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.first, self.model, self.last = nn.Parameter(torch.ones(5)), model, nn.Parameter(torch.ones(3, 2))

    def forward(self, *given, **named):
        return self.model(*given, **named)


def flat(trainer: Trainer) -> dict[str, Tensor]:
    weights = {f"weights.{name}": value.detach().contiguous() for name, value in trainer.weights().items()}
    return weights | {name: value.contiguous() for name, value in trainer.optimiser_state().items()}


def train(overrides: list[str], parallel: str, steps: int, source: str | None, target: str, ranks: Ranks) -> None:
    """`steps` updates, from the state in the file `source` where there is one."""
    config = request(discovery.study("regression"), overrides, Path(target).parent).config
    built = build.build(config, ranks)
    model = Idle(build.build_model(config, built.study.interface, torch.device("cpu")))
    seeds = config.seeds.following(config.seed)
    trainer = Trainer(
        model, config.training, seeds, built.device, config.precision, 100, built.together, parallel, ranks
    )
    if source is not None:
        stored = load_file(source)
        weights = {k.removeprefix("weights."): v for k, v in stored.items() if k.startswith("weights.")}
        rest = {k: v for k, v in stored.items() if not k.startswith("weights.")}
        trainer.load(weights, rest, {"step": len(rest["losses"])})
    for _ in range(steps):
        trainer.update(built.tasks[0])
    state = flat(trainer)
    if ranks.first:
        save_file(state, target)


if __name__ == "__main__":
    with joined() as ranks:
        for job in json.loads(Path(sys.argv[1]).read_text()):
            train(**job, ranks=ranks)
            ranks.any(False)  # the first has written its file before another job reads it
