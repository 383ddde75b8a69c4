from __future__ import annotations


def claims() -> None:
    """List the published results that can be checked here, with their cost and the latest result of each."""
    from inlearn.claims.claim import all_claims
    from inlearn.claims.results import latest
    from inlearn.cli.common import print_table

    rows = []
    for claim in all_claims().values():
        result = latest(claim.id)
        verdict = "–" if result is None else "pass" if result["passed"] else "FAIL"
        rows.append((claim.id, claim.tier, verdict, claim.title, claim.source))
    print_table(("claim", "tier", "latest", "what is claimed", "source"), rows)
