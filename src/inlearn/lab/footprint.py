"""What a run takes of a machine at every step: parameters, tokens, bytes of memory, counted before it is begun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inlearn.core import device as devices
from inlearn.core.batch import Batch
from inlearn.core.draws import Address
from inlearn.core.spaces import Space
from inlearn.lab.build import build_study
from inlearn.lab.config import RunBase
from inlearn.models.forward import outputs_at_scored
from inlearn.training.config import SGD

ROWS = 8  # of the batch on which activations are counted; they grow in proportion to the rows
TRANSIENT = 3  # with gradients of activations, batches drawn ahead, what operators and evaluation take (measured)


@dataclass(frozen=True)
class Footprint:
    """parameters: of the model. tokens: that it reads at a training step, a shared prefix counted once.
    bytes: what training it takes as one more member of a stack, an estimate."""

    parameters: int
    tokens: int
    bytes: int

    @property
    def work(self) -> float:
        """parameters × tokens: what decides whether a CPU gains by a stack."""
        return float(self.parameters) * self.tokens


def footprint(config: RunBase) -> Footprint:
    """Builds the study and an uninitialised model, on the CPU, and reads a few rows with it."""
    study = build_study(config)
    task, together = study.tasks["train"], study.rows_together("train")
    rows = together * max(1, min(ROWS, config.training.batch) // together)
    batch = task.sample(Address(config.seeds.following(config.seed), "data", 0), rows)
    model = config.model.build(study.interface).to(devices.DTYPES[config.precision])
    parts = config.training.batch / rows
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    with devices.autocast(torch.device("cpu"), config.precision):
        activations = _saved(model, batch, task.interface.outputs)
    return Footprint(
        parameters=sum(p.numel() for p in model.parameters()),
        tokens=round(_tokens(batch) * parts),
        bytes=round(weights * (2 + _moments(config)) + TRANSIENT * activations * parts),
    )


def _moments(config: RunBase) -> int:
    """How many buffers as large as the weights the optimiser keeps."""
    optimiser = config.training.optimiser
    return (1 if optimiser.momentum else 0) if isinstance(optimiser, SGD) else 2


def _tokens(batch: Batch) -> int:
    return batch.weights.numel() + (0 if batch.prefix is None else batch.prefix.shape[:2].numel())


def _saved(model: nn.Module, batch: Batch, space: Space) -> int:
    def forward() -> Tensor:
        prediction = space.prediction(outputs_at_scored(model.eval(), batch))
        return space.loss(prediction, batch.at_scored(batch.targets)).sum()

    return saved_bytes(model, forward)


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that `forward` keeps for the backward pass, each piece of memory once, the model's parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()  # held until the end: memory that is freed is given out again at the same address
    del result
    return sum(kept.values())
