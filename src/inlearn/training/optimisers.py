"""From what was asked to torch's optimisers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from inlearn.training.config import SGD, Adam, AdamW


def group(asked: Adam | AdamW | SGD, parameters: Sequence[torch.nn.Parameter], rate: float) -> dict[str, Any]:
    """Parameters with what was asked for them, as torch's optimisers take it."""
    settings: dict[str, Any] = {"params": list(parameters), "lr": rate, "weight_decay": asked.weight_decay}
    if isinstance(asked, SGD):
        return settings | {"momentum": asked.momentum, "nesterov": asked.nesterov}
    return settings | {"betas": asked.betas, "eps": asked.eps}


def optimiser(kind: str, groups: Iterable[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
    """`kind` as in the configuration. One fused call updates all parameters of a group."""
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    return classes[kind](list(groups), fused=fused)
