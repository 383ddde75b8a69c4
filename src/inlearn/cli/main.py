"""`inlearn VERB …`. Importing this must stay quick: no torch, no pydantic, no pandas before a verb needs them."""

from __future__ import annotations

import sys

import typer

from inlearn.cli import (
    aggregate,
    analyse,
    campaign,
    cancel,
    claims,
    compare,
    describe,
    doctor,
    evaluate,
    import_,
    logs,
    ls,
    models,
    prepare,
    presets,
    profile,
    push,
    report,
    reproduce,
    resume,
    run,
    show,
    status,
    studies,
    summarise,
    sweep,
    table,
    verify,
)
from inlearn.cli.environment import load_environment

app = typer.Typer(
    name="inlearn",
    help="Where does a sequence model keep what it learns: in its context, in its weights, or in a tool?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

GROUPS = {
    "Know": (studies.studies, presets.presets, models.models, describe.describe, doctor.doctor, profile.profile),
    "Train": (
        import_.import_,
        prepare.prepare,
        run.run,
        resume.resume,
        sweep.sweep,
        campaign.campaign,
        cancel.cancel,
        push.push,
    ),
    "Look": (
        ls.ls,
        show.show,
        status.status,
        logs.logs,
        evaluate.evaluate,
        analyse.analyse,
        report.report,
        compare.compare,
        summarise.summarise,
        aggregate.aggregate,
        table.table,
        verify.verify,
    ),
    "Check": (claims.claims, reproduce.reproduce),
}
for panel, verbs in GROUPS.items():
    for verb in verbs:
        app.command(verb.__name__.rstrip("_"), rich_help_panel=panel)(verb)  # import_: a keyword of Python's


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        import inlearn

        typer.echo(f"inlearn {inlearn.__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; a mistake of the user's exits 2, a fault of the machine's 1, each with one paragraph."""
    try:
        load_environment()
        app()
    except Exception as error:
        status = _status(error)
        if status is None:
            raise
        print(f"inlearn: {error}", file=sys.stderr)
        sys.exit(status)


def _status(error: Exception) -> int | None:
    from inlearn.core.errors import EnvironmentFault, UserError
    from inlearn.core.files import MACHINE_FAULTS

    if isinstance(error, UserError):
        return 2
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error):
        error.args = (f"not enough memory for what was asked: {str(error).splitlines()[0]}",)
        return 1
    if isinstance(error, EnvironmentFault) or (isinstance(error, OSError) and error.errno in MACHINE_FAULTS):
        return 1
    return None


if __name__ == "__main__":
    main()
