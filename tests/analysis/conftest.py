"""Puts what these tests share on the path: tests are collected in importlib mode, which adds no folder of its own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
