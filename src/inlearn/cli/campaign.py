from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from inlearn.cli.common import RUNS, Overrides, Root, complete_studies, say

if TYPE_CHECKING:
    from pathlib import Path

    from inlearn.sweeps.campaign_run import Asked


def campaign(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY|CAMPAIGN.yaml", help="A study that has one, or a file.", autocompletion=complete_studies
        ),
    ],
    overrides: Overrides = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="1..5, or 1,2,7; the campaign's own if none.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="What this campaign is called; its runs too.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the experiments and how they stand.")] = False,
    retry: Annotated[Literal["failed"] | None, typer.Option("--retry", help="Carry out failed runs once more.")] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Take runs that a changed preset or version made different as new ones.")
    ] = False,
    runs: Root = RUNS,
) -> None:
    """Carry out a study's experiments in order, through its gates, and compare them: `inlearn campaign automata`."""
    from inlearn.cli.common import print_table
    from inlearn.core.configuration import split_override
    from inlearn.core.errors import EnvironmentFault
    from inlearn.sweeps import sweep
    from inlearn.sweeps.campaign import read_campaign, read_seeds
    from inlearn.sweeps.campaign_report import answers, comparison, sentences, write
    from inlearn.sweeps.campaign_run import asked_for, carry_out
    from inlearn.sweeps.campaign_table import find

    ours = [text for text in overrides or [] if split_override(text)[0].partition(".")[0] == "engine"]
    document = read_campaign(study)
    _, engine = sweep.asked_for(document.study, ours)
    rest = [text for text in overrides or [] if text not in ours]
    asked = asked_for(document, None if seeds is None else read_seeds(seeds), rest, name)
    if dry_run:
        _print_dry(asked, runs)
        return
    course = carry_out(asked, engine, runs, say, retry == "failed", renew)
    if course.stopped:
        say(f"campaign {asked.campaign.name} is not complete ({course.stopped}): the same command goes on")
        if course.problems:
            raise EnvironmentFault("; ".join(course.problems))
        return
    findings = find(course)
    page = write(course, findings)
    for table in (comparison(course, findings), *([answers(findings)] if len(findings.answers) else [])):
        print_table(table.columns, table.rows, table.title)
    for sentence in sentences(course, findings):
        say(sentence)
    print(page)
    if course.problems:
        raise EnvironmentFault("; ".join(course.problems))


def _print_dry(asked: Asked, root: Path) -> None:
    """What there is to do, by the plans and the log of decisions; nothing is evaluated or made."""
    from inlearn.cli.common import print_table
    from inlearn.sweeps.campaign_run import check, plan_folder
    from inlearn.sweeps.campaign_values import last_decisions
    from inlearn.sweeps.standing import count, standings

    every = check(asked, root)
    decided = last_decisions(root / ".campaigns" / asked.campaign.name / "decisions.jsonl")
    rows, total = [], 0
    for one, wanted in zip(asked.campaign.experiments, every, strict=True):
        folder = plan_folder(asked, root, one)
        found = standings(root, (folder.runs if folder else []) if one.start else wanted)
        waits = [f"{other}: {gate} passed" for other, gate in one.after.items()]
        waits += [f"{other}: {gate} failed" for other, gate in one.fallback.items()]
        waits += [f"weights of {one.start}"] * (one.start is not None)
        verdicts = [f"{gate} {line['verdict']}" for (other, gate), line in decided.items() if other == one.name]
        state = count(found) or f"{len(wanted)} planned"
        rows.append((one.name, one.phase, ", ".join(waits), state, ", ".join(verdicts), one.about))
        total += len(wanted)
    print_table(("experiment", "phase", "waits for", "runs", "gates", "what"), rows, asked.campaign.title or None)
    say(f"campaign {asked.campaign.name}: {len(rows)} experiments of {len(asked.seeds)} seeds, at most {total:,} runs")
