"""The findings of a campaign as files in its folder: CSV and JSON at full precision, Markdown and a page to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from inlearn.core.files import write_json, write_text
from inlearn.reports.summaries import Read, group_tables, probability, write_summary_page
from inlearn.reports.texts import MISSING, interval, markdown, plain, to_precision
from inlearn.sweeps.campaign_run import Course
from inlearn.sweeps.campaign_table import AXIS, Findings
from inlearn.sweeps.campaign_values import last_decisions


def write(course: Course, findings: Findings) -> Path:
    """Write the files; the page's path. They are as good as the runs that have finished so far."""
    folder, campaign = course.folder, course.asked.campaign
    head = {
        "campaign": campaign.name,
        "title": campaign.title,
        "study": campaign.study,
        "seeds": list(course.asked.seeds),
        "overrides": list(course.asked.overrides),
        "result": str(campaign.result),
        "problems": course.problems,
        "notes": findings.notes,
    }
    tables = {name: getattr(findings, name) for name in ("experiments", "groups", "answers")}
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False))
    decisions = list(last_decisions(folder / "decisions.jsonl").values())
    write_json(folder / "campaign.json", head | {"decisions": decisions} | {k: _records(v) for k, v in tables.items()})
    words, readable = sentences(course, findings), read_tables(course, findings)
    told = [f"# {campaign.title or campaign.name}", *words]
    told += [f"**{table.title}**\n\n{markdown(table.columns, table.rows)}" for table in readable]
    write_text(folder / "campaign.md", "\n\n".join(told) + "\n")
    page = folder / "campaign.html"
    curves = findings.curves if len(findings.curves) else pd.DataFrame(columns=CURVES)
    groups = findings.groups if len(findings.groups) else pd.DataFrame(columns=GROUPS)
    return write_summary_page(
        page, campaign.title or campaign.name, "\n\n".join(words), [AXIS], groups, curves, readable
    )


CURVES = [AXIS, "set", "measure", "reference", "unit", "step", "mean", "low", "high", "n"]
GROUPS = [AXIS, "set", "learner", "measure", "reference", "mean", "low", "high", "unit"]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON has them: no NaN, whole numbers whole."""
    return json.loads(table.to_json(orient="records", double_precision=15))


def sentences(course: Course, findings: Findings) -> list[str]:
    """What the numbers are of, and what is not in them."""
    campaign = course.asked.campaign
    seeds = ", ".join(map(str, course.asked.seeds))
    read = f"the checkpoint that {'was best while training' if campaign.at == 'best' else 'training ended with'}"
    said = [
        f"{str(campaign.result).capitalize()} of {read}, seeds {seeds}. Intervals are Student's t between runs, 95 %."
    ]
    if campaign.speed is not None:
        speed = campaign.speed
        said.append(
            f"Updates and epochs to {_percent(speed.share)} are those until {speed.measure} on {speed.set} had come to "
            "that part of its own last value, as far as it was evaluated; runs that never rose have none."
        )
    said += [f"{question.ask} {question.note}" for question in campaign.questions if question.note]
    return [*said, *course.problems, *findings.notes]


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def read_tables(course: Course, findings: Findings) -> list[Read]:
    """The comparison, the questions, then every value by group with the ideal learners beside it."""
    campaign = course.asked.campaign
    tables = [comparison(course, findings)]
    if len(findings.answers):
        tables.append(answers(findings))
    if len(findings.groups):
        tables += group_tables(findings.groups, [AXIS], [], f"{campaign.at} checkpoints")
    return tables


def comparison(course: Course, findings: Findings) -> Read:
    """Mean, std, interval and n of every experiment, how fast it learnt, its gates, and what became of it."""
    campaign = course.asked.campaign
    share = _percent(campaign.speed.share) if campaign.speed else ""
    known = [name for name in ("updates", "epochs") if findings.experiments.get(name, pd.Series()).notna().any()]
    columns = [AXIS, "phase", "mean", "std", "95 % interval", "n"]
    columns += [*(f"{name} to {share}" for name in known), "gates", "runs", "remark"]
    rows = []
    for row in findings.experiments.to_dict("records"):
        half = (row["high"] - row["low"]) / 2
        cells = [row["experiment"], row["phase"], to_precision(row["mean"], half), to_precision(row["std"], row["std"])]
        cells += [interval(row["low"], row["high"]), plain(row["n"])]
        cells += [MISSING if row[name] != row[name] else f"{row[name]:.4g}" for name in known]
        rows.append([*cells, row["gates"], row["state"], row["mark"]])
    return Read(f"{str(campaign.result).capitalize()}, {campaign.at} checkpoints", columns, rows)


def answers(findings: Findings) -> Read:
    columns = ["question", "of", "answer", "p", "pairs", "remark"]
    rows: list[Sequence[str]] = [
        [row["question"], row["value"], row["answer"], probability(row["p"]), plain(row["n"]), row["mark"]]
        for row in findings.answers.to_dict("records")
    ]
    return Read("Questions, by differences paired by seed", columns, [list(row) for row in rows])
