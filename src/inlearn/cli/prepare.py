from __future__ import annotations

from inlearn.cli.common import Overrides, Study, say


def prepare(study: Study, overrides: Overrides = None) -> None:
    """Build whatever data a study needs before it can be trained on. Twice is as good as once."""
    from inlearn.lab import discovery
    from inlearn.lab.build import build_study
    from inlearn.lab.config import compose

    build_study(compose(discovery.study(study), overrides or [])).prepare(say)
