"""What a model is for a study, in numbers: its parameters, what it keeps of a row, what one more position costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from inlearn.core.configuration import Config
from inlearn.core.spaces import Interface, Tokens
from inlearn.lab.matching import count
from inlearn.models.recurrence import sequential
from inlearn.training.costs import OperatorCounter


@dataclass(frozen=True)
class ModelCosts:
    """parameters: of the whole model. state: numbers kept of one row of the study's length. growth: of these, those
    that each further position adds (0: the state has a fixed size). flop: of one more position at the end of a row.
    """

    parameters: int
    state: int
    growth: int
    flop: int


SHORT = 8  # positions that show whether a state grows; where it does not, the others need not be computed


def model_costs(config: Config, interface: Interface) -> ModelCosts:
    """Measured on one row of zeros with weights of zero: nothing of this depends on their values.

    flop: what matrix products and attention take, and one for every real that other operators compute, in the
    literal form, so that a library's fused kernel counts as what it computes.
    """
    steps = max(2, interface.length)  # a second position shows whether the state grows
    model = config.build(replace(interface, length=steps)).eval()
    parameters = count(config, interface)
    with torch.no_grad(), sequential():
        for parameter in model.parameters():
            parameter.zero_()
        found = _after(model, min(steps, SHORT), parameters)
        return _after(model, steps, parameters) if found.growth else found


def _after(model: nn.Module, steps: int, parameters: int) -> ModelCosts:
    """What is kept of a row of `steps` positions, and what the last of them costs."""
    _, before = model(_zeros(model.interface, steps - 1))
    with OperatorCounter() as counter:
        _, after = model(_zeros(model.interface, 1), before)
    kept, cost = _numbers(after.layers), counter.total
    return ModelCosts(parameters, kept, kept - _numbers(before.layers), cost.flop + cost.elements)


def _zeros(interface: Interface, steps: int) -> Tensor:
    if isinstance(interface.inputs, Tokens):
        return torch.zeros(1, steps, dtype=torch.int64)
    return torch.zeros(1, steps, interface.inputs.width)


def _numbers(state: Any) -> int:
    """How many reals a state holds; a complex number is two."""
    return sum(tensor.numel() * (2 if tensor.is_complex() else 1) for tensor in _tensors(state))


def _tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif is_dataclass(node):
        for field in fields(node):
            yield from _tensors(getattr(node, field.name))
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _tensors(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _tensors(value)
