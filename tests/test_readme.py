"""What the README and the guides show is run, line by line, on a machine like a reader's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    return [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def shell(tmp_path):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def call(words: list[str]) -> subprocess.CompletedProcess:
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return call


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.name)
def test_commands_run_as_they_stand(page, shell, tmp_path):
    for block in blocks(page, "python"):
        if named := re.match(r"# (\w+\.py):", block):
            (tmp_path / named[1]).write_text(block)
    for command in commands(page):
        done = shell(shlex.split(command))
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_readmes_python_runs(shell, tmp_path):
    (block,) = blocks(ROOT / "README.md", "python")
    done = shell([sys.executable, "-c", block])
    assert done.returncode == 0, done.stderr


def test_make_targets_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_link_between_pages_leads_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page}: {link}"


def test_every_preset_that_a_page_names_exists():
    from inlearn.lab import discovery

    presets = {kind: found.presets for kind, found in discovery.studies().items()}
    anywhere = {name for known in presets.values() for name in known}
    for page in PAGES:
        for study, name in re.findall(r"(?:inlearn \w+ (\w+) [^`\n]*?)?preset=([\w-]+)", page.read_text()):
            assert name in presets.get(study, anywhere), f"{page}: {study} {name}"


def test_every_command_in_the_guides_tables_is_understood():
    """Right columns of tables: `inlearn run …` composes."""
    from inlearn.lab import discovery
    from inlearn.lab.config import compose

    for page in PAGES:
        for study, command in re.findall(r"`inlearn run (\w+) ([^`…]+)`", page.read_text()):
            compose(discovery.study(study), shlex.split(command))
