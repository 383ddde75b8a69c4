from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# CI tries the same examples every time; a developer's machine goes on looking for new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

LOOKUP = Path(__file__).parent / "lookup_study.py"

TINY = (
    "task.dimension=2",
    "task.examples=3",
    "model.width=16",
    "model.layers=1",
    "model.heads=2",
    "training.batch=16",
    "training.steps=60",
    "training.rate=0.01",
    "record.training=7",
    'record.evaluations={"kind":"every","steps":20}',
    'record.checkpoints={"kind":"every","steps":15}',
    "evaluation.rows=64",
    "evaluation.gain_rows=8",
)
"""A regression run of a second: 60 steps, checkpoints every 15, training lines every 7."""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def lookup() -> str:
    """The path of a user's own single-file study."""
    return str(LOOKUP)


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    return TINY
