from __future__ import annotations

from typing import Annotated, Literal

import typer

from inlearn.cli.common import RUNS, Root, say


def _complete_claims(incomplete: str) -> list[str]:
    from inlearn.claims.claim import all_claims

    return [name for name in all_claims() if name.startswith(incomplete)]


def reproduce(
    claim: Annotated[
        str | None, typer.Argument(metavar="[CLAIM]", help="A claim's id.", autocompletion=_complete_claims)
    ] = None,
    tier: Annotated[
        Literal["seconds", "minutes", "hours", "gpu"] | None,
        typer.Option("--tier", help="Every claim of this cost instead."),
    ] = None,
    runs: Root = RUNS,
) -> None:
    """Check a published result: run what it needs, print ours beside theirs, keep the result in results/claims/."""
    from inlearn.claims.check import check
    from inlearn.claims.claim import all_claims
    from inlearn.claims.results import keep
    from inlearn.cli.common import number, print_table
    from inlearn.core.errors import UserError, unknown

    if (claim is None) == (tier is None):
        raise UserError("name a claim, or a tier with --tier; `inlearn claims` lists both")
    known = all_claims()
    if claim is not None and claim not in known:
        raise unknown("claim", claim, known)
    chosen = [known[claim]] if claim else [c for c in known.values() if c.tier == tier]
    if not chosen:
        raise UserError(f"no claim has tier {tier}; `inlearn claims` lists them")
    failed = []
    for one in chosen:
        result = check(one, runs, say)
        rows = [
            (
                c["what"],
                c["ours"],
                c["published"],
                " to ".join(number(end) for end in c["band"]),
                "pass" if c["passed"] else "FAIL",
                " ".join(c["runs"]),
            )
            for c in result["checks"]
        ]
        print_table(("what", "ours", "published", "band", "verdict", "runs"), rows, f"{one.id}: {one.title}")
        say(f"kept in {keep(result)}")
        failed += [] if result["passed"] else [one.id]
    if failed:
        say(f"{len(failed)} of {len(chosen)} claims failed: {', '.join(failed)}")
        raise typer.Exit(1)
