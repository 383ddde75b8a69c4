from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlearn.cli.common import Overrides, complete_studies, say

if TYPE_CHECKING:
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
    """One a model, or that of the model which `overrides` name. A model without a key that others have is left out."""
    from inlearn.core.configuration import split_override
    from inlearn.core.errors import UserError
    from inlearn.lab import discovery
    from inlearn.lab.config import compose, dotted_keys

    keys = [split_override(text)[0] for text in overrides]
    if "model" in keys:
        return [compose(found, overrides, say=say)]
    options = {kind: dotted_keys(config, "model.") for kind, config in discovery.models().items()}
    known = set().union(*options.values())
    composed = []
    for kind, own in options.items():
        if lacking := [key for key in keys if key in known - own]:
            say(f"{kind} is left out: it has no {', '.join(lacking)}")
            continue
        try:
            composed.append(
                compose(found, [f"model={kind}", *overrides], say=lambda text, kind=kind: say(f"{kind}: {text}"))
            )
        except UserError as error:
            raise UserError(f"model={kind}: {error}") from None
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
    rows = [(f"model.{name}", getattr(config, name), _accepted(field)) for name, field in fields.items()]
    stand_ins = type(config).STAND_INS.items()
    return rows + [(f"model.{name}", None, f"number that picks model.{field}") for name, field in stand_ins]


def _accepted(field: Any) -> str:
    """What a field takes, in words: choices, kinds of numbers, limits."""
    import types
    from typing import Literal, Union, get_args, get_origin

    words = {int: "whole number", float: "number", bool: "true, false", str: "text", type(None): "none"}

    def spoken(annotation: Any) -> list[str]:
        origin = get_origin(annotation)
        if origin is Literal:
            return [str(choice) for choice in get_args(annotation)]
        if origin is Annotated:
            return spoken(get_args(annotation)[0])
        if origin in (Union, types.UnionType):
            return [word for member in get_args(annotation) for word in spoken(member)]
        return [words.get(annotation, str(annotation))]

    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    limits = [
        f"{sign} {getattr(bound, name):g}"
        for bound in field.metadata
        for name, sign in signs.items()
        if hasattr(bound, name)
    ]
    return ", ".join(spoken(field.annotation)) + (f" {' and '.join(limits)}" if limits else "")
