from __future__ import annotations

from typing import Annotated, Any

import typer

from inlearn.cli.common import Overrides, complete_studies

ForStudy = Annotated[str, typer.Argument(help="Count parameters for this study.", autocompletion=complete_studies)]


def models(study: ForStudy = "regression", overrides: Overrides = None) -> None:
    """List the models with their parameter counts for a study, and what each can be asked to be."""
    import inspect

    from inlearn.cli.common import print_table
    from inlearn.lab import discovery
    from inlearn.lab.build import build_study
    from inlearn.lab.config import compose

    found = discovery.study(study)
    built = {}
    for kind in discovery.models():
        asked = compose(found, [f"model={kind}", *(overrides or [])])
        built[kind] = asked.model, asked.model.build(build_study(asked).interface)
    rows = [(kind, sum(p.numel() for p in model.parameters())) for kind, (_, model) in built.items()]
    print_table(("model", "parameters"), rows, " ".join(("models for", study, *(overrides or []))))
    for kind, (config, _) in built.items():
        print(f"model={kind}\n\n{inspect.getdoc(type(config))}\n")
        fields = {name: field for name, field in type(config).model_fields.items() if name != "kind"}
        rows = [(f"model.{name}", getattr(config, name), _accepted(field)) for name, field in fields.items()]
        print_table(("key", "value", "accepts"), rows)


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
