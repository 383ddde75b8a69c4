from __future__ import annotations

from typing import Annotated

import typer

from inlearn.cli.common import Overrides, complete_studies


def models(
    study: Annotated[
        str, typer.Argument(help="Count parameters for this study.", autocompletion=complete_studies)
    ] = "regression",
    overrides: Overrides = None,
) -> None:
    """List the models with their parameter counts for a study, and the options of each."""
    from inlearn.cli.common import print_table
    from inlearn.lab import discovery
    from inlearn.lab.build import build_study
    from inlearn.lab.config import compose

    found = discovery.study(study)
    rows, options = [], []
    for kind, config in discovery.models().items():
        asked = compose(found, [f"model={kind}", *(overrides or [])])
        interface = build_study(asked).interface
        model = asked.model.build(interface)
        rows.append((kind, sum(p.numel() for p in model.parameters()), (config.__doc__ or "").strip().splitlines()[0]))
        for name, field in config.model_fields.items():
            if name != "kind":
                options.append((kind, f"model.{name}", str(getattr(asked.model, name)), field.description or ""))
    print_table(("model", "parameters", "what it is"), rows, f"models, for {study} {' '.join(overrides or [])}".strip())
    print_table(("model", "key", "value", "meaning"), options)
