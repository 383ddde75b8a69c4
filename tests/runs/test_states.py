from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from inlearn.runs.folder import RunFolder, Status
from inlearn.runs.lease import Lease
from inlearn.runs.states import states


def made(root: Path, number: int) -> RunFolder:
    id = f"{number:012x}"
    return RunFolder.create(root, id, {"id": id, "config": {}}, {"kind": "regression"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(4):
        made(tmp_path, number)
    return tmp_path


def test_they_are_what_the_folders_say(root: Path) -> None:
    RunFolder(root / f"{1:012x}").set_status("finished", 60)
    RunFolder(root / f"{2:012x}").set_status("failed", 7, "the loss is no number")
    expected = [(folder.id, folder.status) for folder in map(RunFolder, sorted(root.glob("0*")))]
    assert states(root) == expected and dict(expected)[f"{1:012x}"] == Status("finished", 60)
    wanted = [f"{2:012x}", "f" * 12, f"{0:012x}"]
    assert states(root, wanted) == [expected[2], expected[0]]


def test_a_run_whose_process_is_gone_was_interrupted(root: Path) -> None:
    folder = RunFolder(root / f"{3:012x}")
    folder.set_status("running", 5)
    assert dict(states(root))[folder.id].state == "interrupted"
    with Lease(folder.path):
        assert dict(states(root))[folder.id] == Status("running", 5)


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"state": "finished", "more": 1}', b"\xff", b"null", None])
def test_a_damaged_run_hides_no_other(root: Path, content: bytes | None) -> None:
    path = root / f"{1:012x}" / "status.json"
    path.unlink() if content is None else path.write_bytes(content)
    found = dict(states(root))
    assert found[f"{1:012x}"].state == "damaged" and str(path.parent) in found[f"{1:012x}"].reason
    assert [state.state for id, state in found.items() if id != f"{1:012x}"] == ["new"] * 3


def test_no_root_and_what_is_no_run(tmp_path: Path) -> None:
    assert states(tmp_path / "none") == [] and states(tmp_path / "none", ["0" * 12]) == []
    (tmp_path / ".plans").mkdir()
    (tmp_path / "comparison.html").write_text("")
    assert states(tmp_path) == []


def test_asking_loads_nothing_heavy(root: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; from inlearn.runs.states import states; "
        f"found = states(Path({str(root)!r})); print(json.dumps([len(found), sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    number, modules = json.loads(done.stdout)
    assert number == 4 and not {"torch", "pandas", "numpy", "pydantic", "duckdb"} & set(modules)
