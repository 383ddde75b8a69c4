from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from inlearn.cli.common import RUNS, Overrides, Root, complete_studies, say

if TYPE_CHECKING:
    from inlearn.sweeps.engines.config import EngineConfig
    from inlearn.sweeps.plan import Plan

WIDE = 200  # more runs than these are printed as plain lines


def sweep(
    plan: Annotated[
        str,
        typer.Argument(
            metavar="STUDY|PLAN.yaml", help="A study (its name or file), or a plan.", autocompletion=complete_studies
        ),
    ],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option("--name", help="What the plan is called.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs, what is done and what it costs.")] = False,
    retry: Annotated[Literal["failed"] | None, typer.Option("--retry", help="Carry out failed runs once more.")] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Take runs that a changed preset or version made different as new ones.")
    ] = False,
    export: Annotated[
        Literal["wandb"] | None, typer.Option("--export", help="Print the plan as a sweep of W&B; carry out nothing.")
    ] = None,
    runs: Root = RUNS,
) -> None:
    """Carry out many runs: `inlearn sweep regression task.count=1,16,inf "seed=range(5)" engine.workers=2`."""
    from inlearn.core.errors import EnvironmentFault, UserError
    from inlearn.sweeps.sweep import asked_for
    from inlearn.sweeps.sweep import sweep as carry_out

    asked, engine = asked_for(plan, overrides or [], name)
    if export is not None:
        if dry_run or retry or renew:
            raise UserError("--export carries nothing out, so --dry-run, --retry and --renew say nothing with it")
        _export(asked)
    elif dry_run:
        _print_dry(asked, engine, runs, retry == "failed")
    else:
        outcome = carry_out(asked, engine, runs, say, retry == "failed", renew)
        print(outcome.plan.path)
        if problem := outcome.problem():
            raise EnvironmentFault(problem)


def _export(plan: Plan) -> None:
    import yaml

    from inlearn.sweeps.wandb import export

    print(yaml.safe_dump(export(plan), sort_keys=False).rstrip())


def _print_dry(plan: Plan, engine: EngineConfig, runs: Root, retry_failed: bool) -> None:
    from inlearn.cli.common import print_table
    from inlearn.sweeps.coordinate import to_do
    from inlearn.sweeps.cost import estimate
    from inlearn.sweeps.folder import check_plan, default_name
    from inlearn.sweeps.planned import planned
    from inlearn.sweeps.stacking import Stacking
    from inlearn.sweeps.standing import count, standings

    wanted, remarks = planned(plan, runs)
    check_plan(runs, plan, wanted)
    found = standings(runs, wanted)
    axes = list(dict.fromkeys(key for run in wanted for key in run.axes))
    rows = [(s.run.id, *(s.run.axes.get(key) for key in axes), s.state, s.step, s.run.last) for s in found]
    columns = ("run", *axes, "state", "step", "of")
    if len(rows) <= WIDE:
        print_table(columns, rows)
    else:
        print("\n".join("\t".join("" if value is None else str(value) for value in row) for row in (columns, *rows)))
    for remark in remarks:
        say(f"note: {remark}")
    say(f"plan {default_name(plan)}: {len(found):,} runs: {count(found)}")
    chosen = {run.id for run in to_do(found, retry_failed)}
    left = [standing for standing in found if standing.run.id in chosen]
    if not left:
        say("nothing is left to do")
        return
    stacking = Stacking(plan.study, runs, engine)
    stacking.check(wanted)
    choice = stacking.choose([standing.run for standing in left])
    if choice.sentence:
        say(choice.sentence)
    cost = estimate(plan.study, left, runs)
    timed = f"{cost.timed} of {cost.shapes} shapes timed" if cost.timed < cost.shapes else "timed"
    apart = ", one by one" if any(len(group) > 1 for group in choice.groups) else ""
    about = f"about {duration(cost.seconds)} for one worker of this machine{apart}"
    say(f"{len(left):,} run{'s' * (len(left) > 1)} to do, {about} ({timed} just now)")


def duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
