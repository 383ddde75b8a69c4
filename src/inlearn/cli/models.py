from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlearn.cli.common import Overrides, complete_studies, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlearn.core.configuration import Config
    from inlearn.lab.config import RunBase
    from inlearn.lab.discovery import FoundStudy

ForStudy = Annotated[str, typer.Argument(help="Count for this study.", autocompletion=complete_studies)]


def models(study: ForStudy = "regression", overrides: Overrides = None) -> None:
    """List the models: parameters, state and cost for a study, and what each can be asked to be (model=KIND: one)."""
    import inspect

    from inlearn.cli.common import print_table
    from inlearn.lab import discovery
    from inlearn.lab.described import blamed_on

    found = discovery.study(study)
    with blamed_on(found.source):
        configs = _configurations(found, overrides or [])
        rows, length = _costs(configs)
    columns = ("model", "parameters", "state", "a position", "FLOP a position")
    what = " ".join((study, *(overrides or [])))
    print_table(columns, rows, f"models for {what}: rows of {length:,} positions")
    print(
        "state: numbers kept of a whole row; a position: of these, what each further one adds; FLOP: of one more, "
        "generated at the end of a row\n"
    )
    for config in (asked.model for asked in configs):
        print(f"model={config.kind}\n\n{inspect.getdoc(type(config))}\n")
        print_table(("key", "value", "accepts"), _options(config))


def _configurations(found: FoundStudy, overrides: list[str]) -> list[RunBase]:
    """One a model, or that of the model which `overrides` name. One that they do not fit is left out."""
    from inlearn.core.configuration import split_override
    from inlearn.core.errors import UserError, unknown
    from inlearn.lab import discovery
    from inlearn.lab.config import compose, dotted_keys

    keys = [split_override(text)[0] for text in overrides]
    if "model" in keys:
        return [compose(found, overrides, say=say)]
    classes = discovery.models()
    options = {kind: dotted_keys(config, "model.") for kind, config in classes.items()}
    known = set().union(*options.values(), *({f"model.{name}" for name in c.STAND_INS} for c in classes.values()))
    # What is wrong whatever the model is said of none of them.
    compose(found, [text for text, key in zip(overrides, keys, strict=True) if not key.startswith("model.")])
    for key in keys:
        if key.startswith("model.") and key not in known:
            names = (name.removeprefix("model.") for name in known)
            raise unknown("key", key.removeprefix("model."), names, "model.")
    composed, left_out = [], {}
    for kind, own in options.items():
        if lacking := [key for key in keys if key in known - own]:
            left_out[kind] = f"it has no {', '.join(lacking)}"
            continue
        try:
            composed.append(
                compose(found, [f"model={kind}", *overrides], say=lambda text, kind=kind: say(f"{kind}: {text}"))
            )
        except UserError as error:
            left_out[kind] = str(error)
    if not composed:
        why = "; ".join(f"{kind}: {reason}" for kind, reason in left_out.items())
        raise UserError(f"no model is possible with {' '.join(overrides)}: {why}")
    for kind, reason in left_out.items():
        say(f"{kind} is left out: {reason}")
    return composed


def _costs(configs: list[RunBase]) -> tuple[list[tuple[Any, ...]], int]:
    """(kind, parameters, state, growth, FLOP) of each model, and how long the study's rows are."""
    from dataclasses import astuple

    from inlearn.lab.build import build_study
    from inlearn.lab.model_costs import model_costs

    interface = build_study(configs[0]).interface
    return [(c.model.kind, *astuple(model_costs(c.model, interface))) for c in configs], interface.length


def _options(config: Config) -> list[tuple[str, Any, str]]:
    fields = {name: field for name, field in type(config).model_fields.items() if name != "kind"}
    rows = [(f"model.{name}", _typed(getattr(config, name)), _accepted(field)) for name, field in fields.items()]
    stand_ins = type(config).STAND_INS.items()
    return rows + [(f"model.{name}", None, f"number that picks model.{field}") for name, field in stand_ins]


def _typed(value: Any) -> str:
    """A value as it is written behind `key=`."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _accepted(field: Any) -> str:
    """What a field takes, in words: choices, kinds of numbers, limits."""
    return ", ".join(_spoken(field.annotation, field.metadata))


def _spoken(annotation: Any, bounds: Sequence[Any]) -> list[str]:
    """Each alternative of a type in words; `bounds` are those of its numbers."""
    import types
    from typing import Literal, Union, get_args, get_origin

    origin = get_origin(annotation)
    if origin is Literal:
        return [str(choice) for choice in get_args(annotation)]
    if origin is Annotated:
        inner, *own = get_args(annotation)
        return _spoken(inner, [*bounds, *own])
    if origin in (Union, types.UnionType):
        return [word for member in get_args(annotation) for word in _spoken(member, bounds)]
    words = {int: "whole number", float: "number", bool: "true, false", str: "text", type(None): "none"}
    word = words.get(annotation, str(annotation))
    return [word + _limits(bounds) if annotation in (int, float) else word]


def _limits(bounds: Sequence[Any]) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    limits = [
        f"{sign} {getattr(bound, name):g}" for bound in bounds for name, sign in signs.items() if hasattr(bound, name)
    ]
    return f" {' and '.join(limits)}" if limits else ""
