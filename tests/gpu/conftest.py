"""Tests that need a CUDA device; `make test-gpu` runs them, elsewhere they are skipped."""

import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parents[1] / room) for room in ("training", "models")]


@pytest.fixture(autouse=True)
def card():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
