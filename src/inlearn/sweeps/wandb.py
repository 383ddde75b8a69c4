"""Sweep files of Weights & Biases: written from a plan, for `wandb agent`; read as a plan. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from inlearn.core.errors import UserError, unknown
from inlearn.lab import discovery
from inlearn.lab.config import compose
from inlearn.sweeps import icl_keys
from inlearn.sweeps.axes import values
from inlearn.sweeps.plan import Plan, Point, points
from inlearn.sweeps.planned import spelling

Document = dict[str, Any]

TOP = ("name", "description", "method", "metric", "program", "command", "project", "entity", "parameters")
"""What a sweep file may say. `metric` says what W&B's page sorts by; in a grid it decides nothing."""

RENDERED = "${args_no_hyphens}"  # the agent puts key=value words in its place


# ---------------------------------------------------------------- writing


def export(plan: Plan) -> Document:
    """The sweep file, ready for YAML, whose agents run `inlearn run STUDY key=value …`, one call a run.

    Every point is composed first. Raises `UserError` for plans that are no plain grid: W&B knows only all
    combinations of values.
    """
    for part in ("zip", "list", "when", "exclude", "include"):
        if getattr(plan, part):
            raise UserError(
                f"this plan has '{part}', and a W&B sweep can only say every combination of values; "
                "`inlearn sweep` carries it out as it is"
            )
    found = discovery.study(plan.study)
    same = spelling(found)
    axes = {same(key): values(key, asked) for key, asked in plan.grid.items()}
    if dollar := next((key for key in (*plan.set, *axes) if key.startswith("$")), None):
        raise UserError(f"{dollar} is there to be referred to; a W&B sweep has no references between its values")
    every, _ = points(plan, same)
    for point in every:
        compose(found, [f"{key}={value}" for key, value in point.items()])
    shared = {same(key): _constant(same(key), every) for key in plan.set}
    for key in axes:
        if {point[key] for point in every} - set(axes[key]):
            raise UserError(f"{key} refers to other keys; a W&B sweep has no references between its values")
    project, entity = shared.pop("track.project", None), shared.pop("track.entity", None)
    document = {"name": plan.name, "project": project, "entity": entity}
    return {key: value for key, value in document.items() if value is not None} | {
        "method": "grid",
        "program": "inlearn",
        "command": ["inlearn", "run", plan.study, RENDERED],
        "parameters": {key: {"value": _typed(value)} for key, value in shared.items()}
        | {key: {"values": [_typed(value) for value in many]} for key, many in axes.items()},
    }


def _constant(key: str, every: Sequence[Point]) -> str:
    """The value that a shared key has at every point, its references put in."""
    if len({point[key] for point in every}) > 1:
        raise UserError(f"{key} refers to an axis; a W&B sweep has no references between its values")
    return every[0][key]


def _typed(value: str) -> Any:
    """A number where W&B's agent writes it back as the same text, so that its charts have an axis; else the text."""
    try:
        number = json.loads(value)
    except ValueError:
        return value
    return number if type(number) in (int, float) and str(number) == value else value


# ---------------------------------------------------------------- reading


def is_sweep(document: Mapping[str, Any]) -> bool:
    """Whether a YAML mapping has the shape of a W&B sweep; our plans have no `parameters`."""
    return "parameters" in document


def read(document: Mapping[str, Any]) -> Document:
    """The plan document (study, name, set, grid) that a W&B sweep file stands for.

    Nested `parameters` are dotted keys. The published sweeps of timaeus-research/icl are read by what their keys are
    called here (icl_keys.py). Raises `UserError` for what is no list of runs: distributions, methods other than grid.
    """
    for key in document:
        if key not in TOP:
            raise unknown("key", key, TOP, "W&B sweep: ")
    method = document.get("method", "grid")
    if method != "grid":
        raise UserError(f"method = {method}: a plan lists its runs, so only method = grid can be read")
    shared: Document = {}
    for key in ("project", "entity"):
        if document.get(key) is not None:
            shared[f"track.{key}"] = document[key]
    fixed, axes = {}, {}
    for key, node in _leaves(document["parameters"], ""):
        (fixed if "value" in node else axes)[key] = node.get("value", node.get("values"))
    if icl_keys.is_published(_words(document)):
        study = "regression"
        fixed, axes = icl_keys.translated(fixed, axes)
    else:
        study, words = _study(document)
        fixed = words | fixed
    plan = {"study": study, "set": shared | fixed, "grid": axes}
    return plan if document.get("name") is None else plan | {"name": document["name"]}


def _leaves(parameters: Any, prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(dotted key, {"value": …} or {"values": […]}) of every parameter, through nested `parameters`."""
    if not isinstance(parameters, Mapping):
        raise UserError(f"{prefix}parameters: expected a mapping of keys")
    for name, node in parameters.items():
        key = f"{prefix}{name}"
        if not isinstance(node, Mapping):
            raise UserError(f"parameter {key} = {node}: expected a mapping with value, values or parameters")
        kinds = [kind for kind in ("value", "values", "parameters") if kind in node]
        further = [word for word in node if word not in kinds]
        if node.get("distribution") in ("constant", "categorical"):  # what value and values are anyway
            further.remove("distribution")
        if further:
            raise UserError(
                f"parameter {key} has '{further[0]}': no list of runs follows from it; give value or values"
            )
        if len(kinds) != 1:
            raise UserError(f"parameter {key}: expected one of value, values and parameters")
        if kinds == ["parameters"]:
            yield from _leaves(node["parameters"], f"{key}.")
        elif kinds == ["values"] and not isinstance(node["values"], list):
            raise UserError(f"parameter {key}: values = {node['values']}: expected a list")
        else:
            yield key, node


def _words(document: Mapping[str, Any]) -> list[str]:
    """The words of the command; a text is cut at spaces."""
    command = document.get("command") or document.get("program") or []
    return command.split() if isinstance(command, str) else [str(word) for word in command]


def _study(document: Mapping[str, Any]) -> tuple[str, Document]:
    """The study that the command trains, and the key=value words that it gives to every run."""
    words = _words(document)
    begins = [place for place, pair in enumerate(pairwise(words)) if pair == ("inlearn", "run")]
    rest = words[begins[0] + 2 :] if begins else []
    if not rest or RENDERED not in rest[1:]:
        shown = " ".join(words) or "nothing"
        raise UserError(f"command = {shown}: expected [inlearn, run, STUDY, {RENDERED}]")
    given = [word for word in rest[1:] if word != RENDERED]
    for word in given:
        if not re.fullmatch(r"[\w.]+=.*", word):
            raise UserError(f"command: '{word}' is not key=value")
    return rest[0], dict(word.split("=", 1) for word in given)
