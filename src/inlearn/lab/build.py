"""From configuration to live objects: study, tasks of every phase, model, trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from inlearn.core import device as devices
from inlearn.core.configuration import merge, resolve
from inlearn.core.contract import Interface, Study, Task
from inlearn.core.errors import UserError
from inlearn.lab.config import RunBase
from inlearn.models.initialise import initialise
from inlearn.training.config import Watched
from inlearn.training.loop import Plan
from inlearn.training.trainer import Trainer


@dataclass(frozen=True)
class Built:
    """The live counterpart of a run's configuration, before any step."""

    config: RunBase
    study: Study
    tasks: Sequence[Task]  # one training task a phase
    device: torch.device


def build_study(config: RunBase) -> Study:
    """The live study. Torch's threads are set here, before anything computes: batched solves hung on two threads."""
    torch.set_num_threads(config.execution.threads)
    study = config.study.build(config.seeds.following(config.seed), config.training.batch)
    if not isinstance(study, Study):
        raise UserError(f"study {config.study.kind}: build() returned {type(study).__name__}; expected a Study")
    return study


def build(config: RunBase) -> Built:
    devices.keep_freed_memory()
    study = build_study(config)
    tasks = [_phase_task(config, index, study.interface) for index in range(len(config.training.phases))]
    _check_names(config, study)
    Plan(config.training, config.record)  # a step that will never come is refused here
    return Built(config, study, tasks or [study.tasks["train"]], devices.choose(config.execution.device))


def _phase_task(config: RunBase, index: int, interface: Interface) -> Task:
    """The training task of one phase: the study's configuration with the phase's own laid on it."""
    over = config.training.phases[index].study
    try:
        changed = resolve(type(config.study), merge(config.study.model_dump(mode="json"), over))
    except UserError as error:
        raise UserError(f"training.phases.{index}.study: {error}") from None
    task = changed.build(config.seeds.following(config.seed), config.training.batch).tasks["train"]
    if (task.interface.inputs, task.interface.outputs) != (interface.inputs, interface.outputs):
        there, here = task.interface, interface
        raise UserError(
            f"training.phases.{index}.study changes what the model reads or answers: {there} against {here}"
        )
    if task.interface.length > interface.length:
        lengths = f"rows of {task.interface.length} positions; the study's have {interface.length}"
        raise UserError(f"training.phases.{index}.study has {lengths}")
    return task


def _check_names(config: RunBase, study: Study) -> None:
    """Refuse conditions on things that are not measured before the first step, not at the thousandth."""
    wanted = [("training.stop", config.training.stop.watched)] if config.training.stop else []
    wanted += [(f"training.phases.{i}.end", p.end.watched) for i, p in enumerate(config.training.phases) if p.end]
    if config.record.best is not None:
        wanted.append(("record.best", Watched.parse(config.record.best)))
    for key, watched in wanted:
        set_, measure, reference = watched.set, watched.measure, watched.reference
        if set_ not in study.tasks or (key == "record.best" and set_ not in study.monitored):
            names = study.monitored if key == "record.best" else study.tasks
            raise UserError(f"{key}: '{set_}' is no evaluation set; known: {', '.join(names)}")
        known = {
            "loss",
            "distance",
            *(m.name for m in study.measures if m.overall and (not m.sets or set_ in m.sets)),
        }
        if measure not in known:
            raise UserError(f"{key}: '{measure}' is not measured on '{set_}'; known: {', '.join(sorted(known))}")
        ideals = [r.name for r in study.references(set_)]
        if measure == "distance" and reference not in ideals:
            raise UserError(f"{key}: '{reference}' is no reference learner of '{set_}'; known: {', '.join(ideals)}")


def build_model(config: RunBase, interface: Interface, device: torch.device) -> nn.Module:
    """A freshly initialised model on its device: a function of the configuration and the `init` seed alone."""
    model = config.model.build(interface)
    initialise(model, config.seeds.following(config.seed))
    return model.to(device=device, dtype=devices.DTYPES[config.precision])


def build_trainer(built: Built) -> Trainer:
    config = built.config
    model = build_model(config, built.study.interface, built.device)
    seeds = config.seeds.following(config.seed)
    return Trainer(model, config.training, seeds, built.device, config.precision, config.record.training)
