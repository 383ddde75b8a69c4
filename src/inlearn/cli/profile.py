from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from inlearn.cli.common import RUNS, Overrides, Root, Study, say

if TYPE_CHECKING:
    from inlearn.lab.profile import Profile

OPERATORS = 12  # in the table; --json has all
BUSY = 0.05  # of a step that other programs may take without a word


def profile(
    study: Study,
    overrides: Overrides = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps to time; without it, three seconds of them.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Everything, in SI units, as one JSON object.")] = False,
    runs: Root = RUNS,
) -> None:
    """Where a step's time goes: its parts, its operators, and how far it is from what this machine can do."""
    from dataclasses import asdict
    from json import dumps

    from inlearn.lab.profile import profile as examined

    found = examined(study, overrides or [], runs, steps, say)
    if json:
        print(dumps(asdict(found), indent=1, allow_nan=False))
    else:
        _print(found)


def _print(found: Profile) -> None:
    from inlearn.cli.common import print_table

    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    title = (
        f"{found.study}: {found.parameters:,} parameters, batch {found.batch:,}, {found.precision}, "
        f"on {found.device_name} ({found.device}, {threads}); {found.steps} steps timed"
    )
    rows = [(part.name, part.ms, f"{part.share:.1%}") for part in found.parts]
    print_table(("part", "ms", "share"), [*rows, ("step", found.ms, "100.0%")], title)

    rest = found.operators[OPERATORS:]
    rows = [
        (o.name, o.ms, round(o.calls), si(o.flop, "FLOP"), si(o.flop_rate, "FLOP/s"))
        for o in found.operators[:OPERATORS]
    ]
    if rest:
        rows.append(
            (f"{len(rest)} others", sum(o.ms for o in rest), round(sum(o.calls for o in rest)), si(0, "FLOP"), "–")
        )
    print_table(("operator", "ms", "calls", "FLOP", "rate"), rows, "operators of a step, under torch.profiler")

    rows = [
        ("matrix products", si(found.flop, "FLOP"), si(found.flop_rate, "FLOP/s"), si(found.product_rate, "FLOP/s"),
         found.flop_rate / found.product_rate, "of the best square product, measured"),
        ("traffic", si(found.traffic, "B"), si(found.byte_rate, "B/s"), si(found.cached_copy_rate, "B/s"),
         found.byte_rate / found.cached_copy_rate, "of a copy as large as an operator's operands; no cache, no fusion"),
        ("compulsory bytes", si(found.compulsory, "B"), si(found.compulsory / found.ms * 1e3, "B/s"),
         si(found.copy_rate, "B/s"), found.compulsory / found.ms * 1e3 / found.copy_rate,
         "of a copy in memory; weights, gradients, moments, batch"),
        ("launches", f"{found.calls:,} operators", f"{found.launch_us:.2f} µs each, empty", "–",
         found.calls * found.launch_us / 1e3 / found.ms, "of the step"),
        ("floor", f"{found.floor_ms:.4g} ms", f"{found.ms:.4g} ms", "–", found.floor_ms / found.ms, "of the step"),
    ]  # fmt: skip
    rows = [(*row[:4], f"{row[4]:.1%} {row[5]}") for row in rows]
    print_table(("what", "a step", "achieved", "measured ceiling", "share"), rows, "against this machine")
    print_table(tuple(found.limits), [[f"{share:.1%}" for share in found.limits.values()]], "what limits the step")
    if found.waited is not None and found.waited > BUSY:
        say(
            f"this process did not run for {found.waited:.0%} of the timed steps: the machine is busy, and its times "
            "are too long by about as much"
        )
    print(found.verdict)


def si(value: float | None, unit: str) -> str:
    """Three significant digits with a decimal prefix: 8.21 GFLOP/s; a dash for nothing."""
    if not value:
        return "–"
    for prefix in ("", "k", "M", "G", "T", "P"):
        if value < 999.5 or prefix == "P":
            break
        value /= 1000
    return f"{value:.3g} {prefix}{unit}"
