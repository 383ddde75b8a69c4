"""`.env`: the nearest one up to the checkout or home, below what the environment sets, at no cost to `--help`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inlearn.cli.environment import load_environment


@pytest.fixture
def place(tmp_path, monkeypatch):
    """home/checkout/.git and home/checkout/deep, where we are."""
    here = tmp_path / "home" / "checkout" / "deep"
    (here.parent / ".git").mkdir(parents=True)
    here.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(here)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return tmp_path


def project() -> str | None:
    load_environment()
    return os.environ.get("WANDB_PROJECT")


def test_the_nearest_file_counts_up_to_the_checkout(place):
    home, checkout, deep = place / "home", place / "home/checkout", place / "home/checkout/deep"
    assert project() is None
    (home / ".env").write_text("WANDB_PROJECT=of-home")
    assert project() is None  # beyond the checkout
    (checkout / ".env").write_text("WANDB_PROJECT=of-checkout")
    (deep / ".env").mkdir()  # somebody's virtual environment
    assert project() == "of-checkout"


def test_without_a_checkout_the_home_folder_is_the_last(place):
    (place / "home/checkout/.git").rmdir()
    (place / ".env").write_text("WANDB_PROJECT=beyond")
    assert project() is None
    (place / "home/.env").write_text("WANDB_PROJECT=of-home")
    assert project() == "of-home"


def test_away_from_home_only_the_current_folder_counts(place, monkeypatch):
    (place / "elsewhere/inner").mkdir(parents=True)
    monkeypatch.chdir(place / "elsewhere/inner")
    (place / "elsewhere/.env").write_text("WANDB_PROJECT=above")
    assert project() is None
    Path(".env").write_text("WANDB_PROJECT=here")
    assert project() == "here"


def test_the_environment_wins(place, monkeypatch):
    Path(".env").write_text("WANDB_PROJECT=file\nWANDB_ENTITY='a team'  # a remark\n")
    monkeypatch.setenv("WANDB_PROJECT", "real")
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    assert project() == "real" and os.environ["WANDB_ENTITY"] == "a team"


def inlearn(*words: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "inlearn.cli.main", *words]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


def test_every_verb_reads_it(place):
    Path(".env").write_text("INLEARN_RUNS=from_file\n")
    Path("from_file").write_text("no folder")
    done = inlearn("ls")
    assert done.returncode == 2 and "from_file: expected a folder, found a file" in done.stderr


def test_a_file_that_is_no_text_is_refused_in_one_sentence(place):
    Path(".env").write_bytes(b"\xff\xfe\x00WANDB")
    done = inlearn("ls")
    assert done.returncode == 2
    assert done.stderr == f"inlearn: {Path.cwd() / '.env'} is not UTF-8 text; expected lines KEY=VALUE\n"


def test_no_file_costs_no_import(place):
    code = "from inlearn.cli.environment import *; load_environment(); import sys; print('dotenv' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_template_names_only_what_is_read(monkeypatch):
    """Every line is a remark or a variable that is commented out: a copy changes nothing before it is filled in."""
    template = Path(__file__).parents[2] / ".env.template"
    assert all(line.startswith("#") or not line for line in template.read_text().splitlines())
