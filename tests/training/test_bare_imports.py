"""The accelerator's machine has torch, numpy, pydantic and safetensors, and no network to fetch more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "inlearn"
ROOMS = ("core", "models", "training", "evaluation")

BLOCKER = """
import importlib.abc, importlib.machinery, importlib.metadata, sys

def requirements(*names):
    found, left = set(), list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or () if name in KNOWN else ():
            if "extra ==" not in text:
                left.append(__import__("re").match(r"[A-Za-z0-9._-]+", text)[0])
    return found

KNOWN = {d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()}
allowed = requirements("torch", "numpy", "pydantic", "safetensors")
owners = importlib.metadata.packages_distributions()

class Refusing(importlib.abc.Loader):
    def create_module(self, spec):
        raise ModuleNotFoundError(f"{spec.name} is not on the accelerator's machine", name=spec.name)

    def exec_module(self, module):
        pass

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        of = {owner.lower().replace("_", "-") for owner in owners.get(top, ())}
        if of and top != "inlearn" and not of & allowed:
            return importlib.machinery.ModuleSpec(name, Refusing())  # torch only asks whether there is one

sys.meta_path.insert(0, Blocker())
"""


def after_the_blocker(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKER + code], capture_output=True, text=True)


@pytest.mark.parametrize("absent", ["pandas", "yaml", "duckdb", "rich", "scipy"])
def test_the_blocker_blocks(absent: str) -> None:
    ended = after_the_blocker(f"import {absent}")
    assert ended.returncode == 1 and "is not on the accelerator's machine" in ended.stderr


def test_every_module_of_these_rooms_is_imported_with_four_packages() -> None:
    names = [
        ".".join(("inlearn", *path.relative_to(SOURCE).with_suffix("").parts))
        for room in ROOMS
        for path in sorted((SOURCE / room).rglob("*.py"))
    ]
    assert len(names) > 30
    ended = after_the_blocker(f"import importlib\nfor name in {names!r}: importlib.import_module(name)\nprint('all')")
    assert ended.stdout.strip() == "all", ended.stderr


def test_a_regression_model_trains_with_four_packages() -> None:
    """As tests/gpu does there: study, model, solo updates and a stack's."""
    ended = after_the_blocker("""
import torch
torch.set_num_threads(1)
from inlearn.lab import discovery
from inlearn.lab.build import build, build_member, build_trainer
from inlearn.lab.config import compose
from inlearn.training.graphs import Alone, DeviceUpdates
from inlearn.training.stack import Stack
asked = ["device=cpu", "model.width=16", "model.heads=2", "training.batch=16"]
built = build(compose(discovery.study("regression"), asked))
trainer = build_trainer(built)
updates = DeviceUpdates(Alone(trainer, built.tasks), print, print)
while trainer.progress.step < 5:
    updates.advance(5 - trainer.progress.step)
stack = Stack([build_member(built) for _ in range(2)], built.device, "float32")
for _ in range(5):
    stack.update()
print(trainer.progress.step, stack.tick)
""")
    assert ended.stdout.strip() == "5 5", ended.stderr
