"""`training.epochs=16`: passes over a study's finite data, for those who count so. What is stored is the steps.

An epoch is `StudyConfig.rows_an_epoch` rows; rows come round without a gap, so an epoch may end inside a step, and the
last step is the one that reaches the last row. A phase may have `epochs` in the place of `steps` too, of its own data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inlearn.core.configuration import Config, StudyConfig, merge, resolve
from inlearn.core.errors import UserError
from inlearn.training.config import Training

EPOCHS = "epochs"


def in_steps(root: type[Config], tree: Mapping[str, Any], say: Callable[[str], None]) -> Mapping[str, Any]:
    """`tree`, a run's configuration, with steps for epochs. `say` hears how many.

    Raises `UserError` where the study's data has no end, or `epochs` is no positive number.
    """
    training = tree.get("training", {})
    phases = training.get("phases") or ()
    curriculum = isinstance(phases, Sequence) and not isinstance(phases, str)
    legs = [leg for leg in phases if isinstance(leg, Mapping) and EPOCHS in leg] if curriculum else []
    if EPOCHS not in training and not legs:
        return tree
    study = resolve(root.model_fields["study"].annotation, tree["study"])
    batch = resolve(Training, {"batch": training["batch"]} if "batch" in training else {}).batch
    training = dict(training)
    if EPOCHS in training:
        if phases:
            raise UserError("training.epochs beside training.phases: expected epochs or steps in each phase")
        training["steps"] = _steps("training.epochs", training.pop(EPOCHS), study, batch, say)
    if legs:
        training["phases"] = [_leg(index, leg, study, batch, say) for index, leg in enumerate(phases)]
        own = [leg.get("steps") for leg in training["phases"] if isinstance(leg, Mapping)]
        if all(isinstance(steps, int) for steps in own):  # else a phase is amiss, which its own check says
            training.setdefault("steps", sum(own))
    return {**tree, "training": training}


def _leg(index: int, leg: Any, study: StudyConfig, batch: int, say: Callable[[str], None]) -> Any:
    if not isinstance(leg, Mapping) or EPOCHS not in leg:
        return leg
    key = f"training.phases.{index}"
    if "steps" in leg:
        raise UserError(f"{key} has epochs and steps: the first gives the second; expected one of them")
    own = resolve(type(study), merge(study.model_dump(mode="json"), leg.get("study", {})))
    rest = {name: value for name, value in leg.items() if name != EPOCHS}
    return {**rest, "steps": _steps(f"{key}.epochs", leg[EPOCHS], own, batch, say)}


def _steps(key: str, asked: Any, study: StudyConfig, batch: int, say: Callable[[str], None]) -> int:
    try:
        epochs = float(asked)
    except (TypeError, ValueError):
        epochs = math.nan
    if not 0 < epochs < math.inf:
        raise UserError(f"{key} = {asked}: expected a positive number of passes over the data")
    if study.rows_an_epoch is None:
        raise UserError(f"{key} = {asked}: the rows of this study never come round; expected training.steps")
    steps = max(1, math.ceil(epochs * study.rows_an_epoch / batch))
    say(f"{key} = {asked}: {steps:,} steps of {batch:,} of {study.rows_an_epoch:,} rows")
    return steps
