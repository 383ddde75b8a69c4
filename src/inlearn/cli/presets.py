from __future__ import annotations

from inlearn.cli.common import Study


def presets(study: Study) -> None:
    """List the presets of a study; the published configurations are among them."""
    from inlearn.cli.common import print_table
    from inlearn.lab import discovery

    found = discovery.study(study)
    print_table(("preset", "what it is"), [(name, tree.get("about", "")) for name, tree in found.presets.items()])
