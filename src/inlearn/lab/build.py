"""From configuration to live objects: study, tasks of every phase, model, trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from inlearn.core import device as devices
from inlearn.core.batch import Batch
from inlearn.core.configuration import merge, resolve
from inlearn.core.contract import Study, Task
from inlearn.core.draws import Address
from inlearn.core.errors import UserError
from inlearn.core.spaces import Interface
from inlearn.lab.config import RunBase
from inlearn.models import kernels
from inlearn.models.initialise import initialise
from inlearn.training import compiled
from inlearn.training.config import Watched
from inlearn.training.loop import Plan
from inlearn.training.parameters import Parallel
from inlearn.training.ranks import ALONE, Ranks
from inlearn.training.stack import Member
from inlearn.training.trainer import Trainer


@dataclass(frozen=True)
class Built:
    """The live counterpart of a run's configuration, before any step."""

    config: RunBase
    study: Study
    tasks: Sequence[Task]  # one training task a phase
    together: Sequence[int]  # of each: how many consecutive rows must never be parted
    device: torch.device
    parallel: Parallel
    ranks: Ranks
    kernels: str = kernels.TORCH  # what computes the model's recurrences
    why_kernels: str | None = None  # a sentence, where it is not what was asked for


def build_study(config: RunBase) -> Study:
    """The live study. Torch's threads are set here, before anything computes: batched solves hung on two threads."""
    torch.set_num_threads(config.execution.threads)
    study = config.study.build(config.seeds.following(config.seed), config.training.batch)
    if not isinstance(study, Study):
        raise UserError(f"study {config.study.kind}: build() returned {type(study).__name__}; expected a Study")
    return study


def build(config: RunBase, ranks: Ranks = ALONE) -> Built:
    """Everything checked before any step; `ranks` are the processes that share the run."""
    devices.keep_freed_memory()
    parallel, device = _parallel(config, ranks), _device(config, ranks)
    devices.set_matmul(config.execution.matmul, device)
    used, why_used = kernels.use(config.execution.kernels, config.model, device, config.precision)
    study = build_study(config)
    phases = [_phase_study(config, index, study.interface) for index in range(len(config.training.phases))]
    legs = phases or [study]
    _check_names(config, study)
    Plan(config.training, config.record)  # a step that will never come is refused here
    tasks, together = [leg.tasks["train"] for leg in legs], [leg.rows_together("train") for leg in legs]
    for rows in together:
        _check_parts(config, rows, ranks)
    built = Built(config, study, tasks, together, device, parallel, ranks, used, why_used)
    for batch in _first_rows(built):
        try:
            batch.check_columns()
        except ValueError as error:
            raise UserError(f"study {config.study.kind}, task 'train': {error}") from None
        if batch.feedback is not None:
            raise UserError(
                f"study {config.study.kind}, task 'train': rows with feedback are for evaluation sets alone"
            )
    _check_step(built)
    return built


def _first_rows(built: Built) -> Iterator[Batch]:
    """A few rows of each phase's training batches."""
    at = Address(built.config.seeds.following(built.config.seed), "data", 0)
    return (task.sample(at, rows) for task, rows in zip(built.tasks, built.together, strict=True))


def _parallel(config: RunBase, ranks: Ranks) -> Parallel:
    asked = config.execution.parallel
    if asked in ("ddp", "fsdp") and ranks.world == 1:
        start = "torchrun --standalone --nproc-per-node 2 --no-python inlearn run …"
        raise UserError(f"execution.parallel = {asked} needs several processes (`{start}`); expected auto for one")
    if asked == "none" and ranks.world > 1:
        raise UserError(f"execution.parallel = none, but {ranks.world} processes were started; expected ddp or fsdp")
    return asked if asked != "auto" else "ddp" if ranks.world > 1 else "none"


def _device(config: RunBase, ranks: Ranks) -> torch.device:
    """The device of this process: with several, card number `local` of its machine."""
    device = devices.choose(config.execution.device)
    if ranks.world == 1:
        return device
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device = {config.execution.device}: several processes train on cpu or cuda alone")
    if device.type == "cpu":
        return device
    if device.index is not None:
        raise UserError(f"device = {config.execution.device}: {ranks.world} processes take a card each; expected cuda")
    if ranks.local >= (cards := torch.cuda.device_count()):
        raise UserError(f"process {ranks.local} on this machine has no card: there are {cards}, and each takes one")
    torch.cuda.set_device(ranks.local)
    return torch.device("cuda", ranks.local)


def _check_step(built: Built) -> None:
    """Refuse a way of making updates that this run cannot have."""
    step = built.config.execution.step
    if step == "graphs" and built.device.type != "cuda":
        why = f"on {built.device}: expected eager, compiled or auto (CUDA graphs need a CUDA device)"
    elif step == "graphs" and built.ranks.world > 1:
        why = f"in {built.ranks.world} processes: expected eager or auto"
    elif step == "compiled" and (reason := why_not_compiled(built)):
        why = f"cannot be: {reason}; expected eager or auto"
    else:
        return
    raise UserError(f"execution.step = {step} {why}")


def why_not_compiled(built: Built) -> str | None:
    """What of a run or machine keeps its updates from being compiled, or None."""
    config = built.config
    if built.device.type != "cpu":
        return f"on {built.device} CUDA graphs are for it"
    if built.ranks.world > 1:
        return f"there are {built.ranks.world} processes"
    if config.training.accumulate > 1:
        return f"training.accumulate = {config.training.accumulate}"
    if not config.model.COMPILES:
        return f"model = {config.model.kind} has kernels of its own"
    drops_out = config.model.dropout > 0
    reasons = (compiled.why_not(batch, drops_out, config.precision) for batch in _first_rows(built))
    return next((reason for reason in reasons if reason), None)


def _check_parts(config: RunBase, together: int, ranks: Ranks) -> None:
    """Refuse a batch that cannot be cut as asked: rows that share something stay in one piece."""
    batch, parts = config.training.batch, config.training.accumulate
    shared = f" of rows that come {together} together" if together > 1 else ""
    if batch % together:
        raise UserError(f"training.batch = {batch}: expected a multiple of {together}, which share their context")
    if batch // together < parts:
        raise UserError(f"training.accumulate = {parts} is more than a batch of {batch}{shared} can be cut into")
    if batch // together < ranks.world:
        raise UserError(f"training.batch = {batch}{shared} leaves nothing for some of {ranks.world} processes")


def _phase_study(config: RunBase, index: int, interface: Interface) -> Study:
    """The study as one phase trains on it: its configuration with the phase's own laid on it."""
    over = config.training.phases[index].study
    try:
        changed = resolve(type(config.study), merge(config.study.model_dump(mode="json"), over))
    except UserError as error:
        raise UserError(f"training.phases.{index}.study: {error}") from None
    study = changed.build(config.seeds.following(config.seed), config.training.batch)
    task = study.tasks["train"]
    there, here = task.interface, interface
    if not (there.inputs.read_alike(here.inputs) and there.outputs.read_alike(here.outputs)):
        raise UserError(
            f"training.phases.{index}.study changes what the model reads or answers: {there} against {here}"
        )
    if task.interface.length > interface.length:
        lengths = f"rows of {task.interface.length} positions; the study's have {interface.length}"
        raise UserError(f"training.phases.{index}.study has {lengths}")
    return study


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


def build_member(built: Built) -> Member:
    """The run as a member of a stack that is still to be made."""
    config = built.config
    if built.parallel != "none":
        raise UserError(f"execution.engine = stacked goes with one process; here are {built.ranks.world}")
    if config.training.accumulate > 1:
        raise UserError(
            f"execution.engine = stacked with training.accumulate = {config.training.accumulate}: expected 1"
        )
    return Member(
        build_model(config, built.study.interface, built.device),
        config.training,
        config.seeds.following(config.seed),
        built.tasks,
        config.record.training,
    )


def build_trainer(built: Built) -> Trainer:
    config = built.config
    # Sharding takes a model to its device piece by piece: whole, it might not fit there.
    device = torch.device("cpu") if built.parallel == "fsdp" else built.device
    return Trainer(
        build_model(config, built.study.interface, device),
        config.training,
        config.seeds.following(config.seed),
        built.device,
        config.precision,
        config.record.training,
        built.together,
        built.parallel,
        built.ranks,
    )
