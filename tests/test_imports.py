"""Imports run one way (docs/architecture.md), and the light parts stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "inlearn"

BELOW = {
    "core": set(),
    "statistics": set(),
    "charts": set(),
    "text": {"core"},
    "models": {"core"},
    "runs": {"core"},
    "training": {"core", "models"},
    "evaluation": {"core", "models", "statistics"},
    "studies": {"core", "text", "statistics", "charts"},
    "reports": {"core", "runs", "statistics", "charts"},
    "analysis": {"core", "models", "statistics", "charts"},
    "lab": {"core", "statistics", "charts", "text", "models", "runs", "training", "evaluation", "studies", "reports"},
}
BELOW["lab"].add("analysis")
BELOW["sweeps"] = {*BELOW["lab"], "lab"}
BELOW["claims"] = set(BELOW) - {"claims", "cli"}
BELOW["cli"] = set(BELOW) - {"cli"}


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("inlearn.")}
    return rooms


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_one_way(path):
    parts = path.relative_to(SOURCE).parts
    if len(parts) == 1:
        return  # the public surface may name every room, lazily
    wrong = imported_rooms(path) - BELOW[parts[0]] - {parts[0]} - {"__version__"}
    assert not wrong, f"{path} imports {wrong}"


def test_a_study_imports_no_other_study():
    for path in (SOURCE / "studies").rglob("*.py"):
        own = path.relative_to(SOURCE / "studies").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("inlearn.studies."):
                assert node.module.split(".")[2] == own, path


def modules_after(code: str) -> set[str]:
    command = [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sys.modules))"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_help_loads_nothing_heavy():
    loaded = modules_after("import inlearn.cli.main")
    assert not loaded & {"torch", "pandas", "numpy", "pydantic", "altair", "duckdb", "yaml"}


def test_composing_a_configuration_loads_no_torch():
    code = "from inlearn.lab import discovery, config; config.compose(discovery.study('regression'), ['preset=demo'])"
    assert not modules_after(code) & {"torch", "pandas", "altair", "duckdb"}


def test_core_and_training_need_torch_numpy_pydantic_and_safetensors_alone():
    """The accelerator's machine has just these (and the standard library)."""
    heavy = {"pandas", "altair", "duckdb", "yaml", "typer", "rich", "jinja2", "xarray", "scipy"}
    code = "import inlearn.training.loop, inlearn.evaluation.evaluate, inlearn.models.transformer"
    assert not modules_after(code) & heavy
