"""Puts the shared cases on the path: tests are collected in importlib mode, which adds no folder of its own."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "models")]
