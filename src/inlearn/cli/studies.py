from __future__ import annotations


def studies() -> None:
    """List the studies: what can be learned, and how many presets each has."""
    from inlearn.cli.common import print_table
    from inlearn.lab import discovery

    rows = [
        (kind, len(found.presets), (found.config.__doc__ or "").strip().splitlines()[0])
        for kind, found in discovery.studies().items()
    ]
    print_table(("study", "presets", "what is learned"), rows)
