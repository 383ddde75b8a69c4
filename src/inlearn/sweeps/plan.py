"""A plan: what differs between the runs of a sweep, and the points that follow from it. Imports no torch.

    study: regression
    name: diversity
    set:  {preset: raventos_small, training.steps: 2000}     # the same for all runs
    grid: {task.count: "powers(2, 0, 20)", seed: range(5)}   # every combination, the last axis fastest
    zip:  [{model.width: [32, 64], training.rate: [3e-3, 1e-3]}]   # these go side by side
    list: [{task.noise_variance: 0.1}, {task.noise_variance: 1, training.clip: 1}]   # alternatives, spelt out
    when: [{if: {model: lstm}, grid: {model.layers: [1, 2]}}]      # axes or values for some points only
    exclude: [{task.count: 1, seed: 3}]                      # points that match all of a mapping are left out
    include: [{task.count: inf, seed: 9}]                    # further points, beside the shared values

Points are the product of grid, zip and list. `{key}` in a value is the point's own value of that key:
`name: "m{task.count}_s{seed}"`. An axis whose name starts with `$` is only there to be referred to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, field_validator

from inlearn.core.configuration import Config, resolve, split_override
from inlearn.core.errors import UserError, unknown
from inlearn.lab.config import reads_as_axis
from inlearn.sweeps.axes import text, values

Point = dict[str, str]
Axes = Mapping[str, Any]

_REFERENCE = re.compile(r"\{([\w.$]+)\}")


class When(Config):
    """Values and axes for the points at which every key of `condition` has (one of) the values given."""

    condition: dict[str, Any] = Field(alias="if", min_length=1)
    set: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, Any] = Field(default_factory=dict)
    zip: tuple[dict[str, Any], ...] = ()
    list: tuple[dict[str, Any], ...] = ()


class Plan(Config):
    """The document that the module's docstring shows."""

    study: str
    name: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, Any] = Field(default_factory=dict)
    zip: tuple[dict[str, Any], ...] = ()
    list: tuple[dict[str, Any], ...] = ()
    when: tuple[When, ...] = ()
    exclude: tuple[dict[str, Any], ...] = ()
    include: tuple[dict[str, Any], ...] = ()

    @field_validator("zip", mode="before")
    @classmethod
    def _one_block_is_a_list_of_one(cls, blocks: Any) -> Any:
        return (blocks,) if isinstance(blocks, Mapping) else blocks


def read_plan(path: Path) -> Plan:
    """The plan in a YAML file; one without a name is called after the file."""
    from inlearn.sweeps.wandb import is_sweep, read

    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"plan {path}: no such file") from None
    except OSError as error:
        raise UserError(f"plan {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"plan {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UserError(f"plan {path}: expected a mapping with study, grid, …")
    if is_sweep(document):
        document = read(document)
    try:
        plan = resolve(Plan, document)
    except UserError as error:
        raise UserError(f"plan {path}: {error}") from None
    if plan.study.endswith(".py"):  # beside the plan, wherever the command is given
        plan = plan.model_copy(update={"study": str((path.parent / plan.study).resolve())})
    return plan if plan.name else plan.model_copy(update={"name": path.stem})


def with_overrides(plan: Plan, overrides: Sequence[str], same: Callable[[str], str] = lambda key: key) -> Plan:
    """The plan with `key=value` and `key=axis` laid over it, each in the place of what the plan says of that key.

    Raises `UserError` where the plan says it in more than one place: that cannot be meant in one word.
    """
    shared, grid = _once("set", plan.set, same), _once("grid", plan.grid, same)
    elsewhere = {
        same(key)
        for block in (*plan.zip, *plan.list, *plan.include, *(b for w in plan.when for b in _blocks(w)))
        for key in block
    }
    seen: dict[str, str] = {}
    for given, value in map(split_override, overrides):
        key = same(given)
        if seen.setdefault(key, value) != value:
            raise UserError(f"{key} is given twice: {seen[key]} and {value}")
        if key in elsewhere:
            raise UserError(f"{key} is in zip, list, when or include of the plan, for some runs only; change it there")
        shared.pop(key, None)
        if reads_as_axis(value):
            grid[key] = value
        else:
            grid.pop(key, None)
            shared[key] = value
    return plan.model_copy(update={"set": shared, "grid": grid})


def _blocks(when: When) -> Iterator[dict[str, Any]]:
    yield from (when.set, when.grid, *when.zip, *when.list)


def _once(where: str, asked: Axes, same: Callable[[str], str]) -> dict[str, Any]:
    """`asked` with each key in its one spelling."""
    found: dict[str, Any] = {}
    for key, value in asked.items():
        if same(key) in found:
            raise UserError(f"{where}: {key} is there twice, in two spellings")
        found[same(key)] = value
    return found


# ---------------------------------------------------------------- points


def points(plan: Plan, same: Callable[[str], str] = lambda key: key) -> tuple[list[Point], list[str]]:
    """Every point (key to text, shared values first), and remarks on parts of the plan that match no point.

    `same` gives the one spelling of a key that may be written in several ways.
    """
    shared = _spelt(plan.set, same)
    begun = _product(plan, "", same)
    if clash := next((key for key in shared if any(key in point for point in begun)), None):
        raise UserError(f"{clash} is both a shared value (set) and an axis of the plan")
    found = [shared | point for point in begun]
    remarks: list[str] = []
    for place, when in enumerate(plan.when):
        condition = _condition(f"when.{place}.if", when.condition, found, same, remarks)
        if not any(_matches(point, condition) for point in found):
            remarks.append(f"when.{place} holds for no run")
        found = [new for point in found for new in _under(point, when, condition, f"when.{place}.", same)]
    for place, pattern in enumerate(plan.exclude):
        condition = _condition(f"exclude.{place}", pattern, found, same, remarks)
        left = [point for point in found if not _matches(point, condition)]
        if len(left) == len(found):
            remarks.append(f"exclude.{place} matches no run")
        found = left
    found += [shared | _spelt(point, same) for point in plan.include]
    if not found:
        raise UserError("the plan has no run: everything is excluded")
    return [_referred(point) for point in found], remarks


def _product(part: Plan | When, where: str, same: Callable[[str], str]) -> list[Point]:
    """Every combination of a part's grid, zip blocks and list; one empty point where it has none."""
    choices: list[list[Point]] = []
    for key, asked in part.grid.items():
        choices.append([{same(key): value} for value in values(key, asked)])
    for place, block in enumerate(part.zip):
        columns = {key: values(key, asked) for key, asked in block.items()}
        if len({len(column) for column in columns.values()}) != 1:
            lengths = ", ".join(f"{key} has {len(column)}" for key, column in columns.items())
            raise UserError(f"{where}zip.{place}: axes that go side by side need as many values: {lengths}")
        rows = zip(*columns.values(), strict=True)
        choices.append([dict(zip(map(same, columns), row, strict=True)) for row in rows])
    if part.list:
        choices.append([_spelt(point, same) for point in part.list])
    return [_joined(parts, where) for parts in product(*choices)]


def _joined(parts: Sequence[Point], where: str) -> Point:
    point: Point = {}
    for part in parts:
        if clash := next((key for key in part if key in point), None):
            raise UserError(f"{where}{clash} is an axis twice")
        point |= part
    return point


def _under(
    point: Point, when: When, condition: Mapping[str, Set[str | float]], where: str, same: Callable[[str], str]
) -> Iterator[Point]:
    if not _matches(point, condition):
        yield point
        return
    for more in _product(when, where, same):
        yield point | _spelt(when.set, same) | more


def _condition(
    where: str, asked: Axes, found: Sequence[Point], same: Callable[[str], str], remarks: list[str]
) -> dict[str, set[str | float]]:
    """By key, the values that match. A value that no point has is remarked on."""
    condition = {}
    for key, value in asked.items():
        there = {_meant(point[same(key)]) for point in found if same(key) in point}
        if not there:
            raise unknown("key", key, {key for point in found for key in point}, f"{where}.")
        wanted = [text(v) for v in (value if isinstance(value, list) else [value])]
        remarks += [f"{where}: no run has {key} = {v}" for v in wanted if _meant(v) not in there]
        condition[same(key)] = {_meant(v) for v in wanted}
    return condition


def _meant(value: str) -> str | float:
    """Texts that mean one number are one: 1, 1.0 and 1e0."""
    try:
        return float(value)
    except ValueError:
        return value


def _matches(point: Point, condition: Mapping[str, Set[str | float]]) -> bool:
    return all(key in point and _meant(point[key]) in wanted for key, wanted in condition.items())


def _spelt(asked: Axes, same: Callable[[str], str]) -> Point:
    return {key: text(value) for key, value in _once("plan", asked, same).items()}


def _referred(point: Point) -> Point:
    """The point with every `{key}` replaced, in whatever order they refer to each other, and `$` axes dropped."""
    done: Point = {}

    def value(key: str, path: tuple[str, ...] = ()) -> str:
        if key in path:
            raise UserError(f"{' → '.join((*path, key))}: these values refer to each other in a circle")
        if key not in done:
            done[key] = _REFERENCE.sub(lambda found: referred(found, key, path), point[key])
        return done[key]

    def referred(found: re.Match[str], key: str, path: tuple[str, ...]) -> str:
        if found[1] not in point:
            raise UserError(f"{key} = {point[key]}: the plan does not set {found[1]} at {_shown(point)}")
        return value(found[1], (*path, key))

    return {key: value(key) for key in point if not key.startswith("$")}


def _shown(point: Point) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items())
