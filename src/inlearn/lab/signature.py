"""Which runs may be trained together as one stack: those whose tensors have the same shapes at every step.

Imports no torch: a sweep asks this for each of its runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from inlearn.core.configuration import Config, digest
from inlearn.core.errors import UserError
from inlearn.lab.config import RunBase
from inlearn.runs.folder import differences

STACKS_PAY = 5e7
"""Parameters × tokens of a step below which a CPU gains by a stack: above, a model keeps a core busy by itself
(benchmarks/results/stacks.json)."""

MEMBERS_OWN = (
    *("seed", "seeds", "start", "name", "tags", "track", "record", "preset"),
    *("training.rate", "training.schedule", "training.clip", "training.stop", "training.until"),
    *("execution.engine", "execution.parallel", "execution.log_level"),
)
"""What each member of a stack has for itself, beside the numbers of its optimiser and what `Config.SHAPELESS` names."""


def alone(config: RunBase) -> str | None:
    """Why a run can never be a member of a stack of several, in words; None where it can."""
    training, execution = config.training, config.execution
    if execution.engine == "solo":
        return "execution.engine = solo"
    if execution.parallel in ("ddp", "fsdp"):
        return f"execution.parallel = {execution.parallel}"
    if training.accumulate > 1:
        return f"training.accumulate = {training.accumulate}"
    if ends := [f"training.phases.{number}.end" for number, phase in enumerate(training.phases) if phase.end]:
        return f"{ends[0]} is a condition, which each run meets at a step of its own"
    return None


def signature(config: RunBase) -> str | None:
    """A text that runs which can be trained together share; None for a run that is always trained alone."""
    return None if alone(config) else digest(_shape(config))


def first_difference(one: RunBase, other: RunBase) -> tuple[str, str, str] | None:
    """The first key in which two runs that cannot be stacked differ, with both values; None where they can be."""
    for key, before, after in differences(_shape(one), _shape(other)):
        return key.removeprefix("study."), before, after
    return None


def check_alike(configs: Sequence[RunBase]) -> None:
    """Raise `UserError`, naming the key, where these runs cannot be trained together."""
    for config in configs:
        if why := alone(config):
            raise UserError(f"{why}: such a run is trained alone, not in a stack")
        if found := first_difference(configs[0], config):
            key, one, other = found
            raise UserError(f"{key} = {one} and {key} = {other}: runs of different shapes cannot be trained together")


def _shape(config: RunBase) -> dict[str, Any]:
    """The configuration without what members have for themselves."""
    tree = config.model_dump(mode="json")
    for key in (*MEMBERS_OWN, *_shapeless(config)):
        _drop(tree, key.split("."))
    optimiser = tree["training"]["optimiser"]
    tree["training"]["optimiser"] = {key: _switch(key, value) for key, value in optimiser.items()}
    return tree


def _switch(key: str, value: Any) -> Any:
    """What of an option of an optimiser all members share: its words and switches, and whether there is a momentum at
    all, without which no velocity is kept; of other numbers, nothing."""
    if key == "momentum":
        return bool(value)
    return value if isinstance(value, (str, bool)) else None


def _shapeless(config: Config, prefix: str = "") -> Iterator[str]:
    yield from (prefix + key for key in type(config).SHAPELESS)
    for name in type(config).model_fields:
        if isinstance(value := getattr(config, name), Config):
            yield from _shapeless(value, f"{prefix}{name}.")


def _drop(tree: Any, path: list[str]) -> None:
    *before, last = path
    for name in before:
        tree = tree.get(name)
        if not isinstance(tree, dict):
            return
    tree.pop(last, None)
