"""Runs trained together against the same runs alone: whole folders, byte for byte, whatever befalls their company."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inlearn.core.errors import UserError
from inlearn.lab.session import resume, start
from inlearn.lab.stacked import Ended, start_together
from inlearn.runs.folder import RunFolder
from inlearn.runs.lease import Lease, lease_holder

QUICK = {
    "training.steps": "24",
    "record.training": "5",
    "record.evaluations": '{"kind":"every","steps":8}',
    "record.checkpoints": '{"kind":"every","steps":6}',
    "evaluation.rows": "37",
}
MEMBERS = (
    {"seed": "1"},
    {"training.rate": "0.003", "training.clip": "0.5", "training.schedule": "cosine"},
    {"training.optimiser.weight_decay": "0.1", "task.count": "4", "training.clip": "0.01", "seed": "3"},
    {"task.noise_variance": "2", "task.prior_variance": "3", "record.trajectory": '{"kind":"every","steps":4}'},
)


def quiet(text: str) -> None:
    pass


@pytest.fixture
def asked(tiny):
    def words(*more: dict[str, str]) -> list[str]:
        settled = dict(text.split("=", 1) for text in tiny) | QUICK
        for each in more:
            settled |= each
        return [f"{key}={value}" for key, value in settled.items()]

    return words


def alone(words: list[str], root: Path, study: str = "regression") -> Path:
    return start(study, [*words, "engine=stacked"], root, quiet).path


def results(path: Path) -> dict[str, bytes]:
    """Every file that must not depend on the company or on how often the run was stopped."""
    process = {"environment.json", "run.log", ".lease.lock", "config.json"}  # config.json's unhashed part: the engine
    files = (file for file in path.rglob("*") if file.is_file() and file.name not in process)
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def assert_same_folder(one: Path, other: Path) -> None:
    here, there = results(one), results(other)
    assert [name for name in sorted(here.keys() | there.keys()) if here.get(name) != there.get(name)] == []
    assert len(here) > 8


def assert_in_order(root: Path, end: Ended, form: tuple[str, int] | None = None) -> None:
    folder = RunFolder(root / end.id)
    assert folder.status.state == end.state and lease_holder(folder.path) is None
    last = folder.segments[-1]
    assert last["to_step"] == folder.status.step and "seconds" in last
    assert form is None or (last["form"], last["members"]) == form


# ---------------------------------------------------------------- the same bytes


@pytest.mark.parametrize(
    "shared",
    [
        {"model.dropout": "0.2", "training.batch": "7", "model.width": "15", "model.heads": "3"},
        {
            "precision": "float64",
            "training.phases": '[{"steps":10,"study":{"task":{"count":1}}},'
            '{"steps":14,"study":{"task":{"examples":2}},"optimiser":"fresh"}]',
        },
        {"training.batch": "1", "task.examples": "1", "precision": "bfloat16"},
    ],
    ids=["dropout", "phases", "one-row"],
)
def test_folders_are_those_of_runs_alone(asked, tmp_path, shared):
    words = [asked(shared, own) for own in MEMBERS]
    ends = start_together("regression", words, tmp_path / "many", quiet)
    pair = start_together("regression", [words[3], words[1]], tmp_path / "two", quiet)
    for own, end in zip(words, ends, strict=True):
        assert end.state == "finished"
        assert_in_order(tmp_path / "many", end, ("stacked", 4))
        assert_same_folder(tmp_path / "many" / end.id, alone(own, tmp_path / "alone"))
    for end in pair:
        assert_same_folder(tmp_path / "two" / end.id, tmp_path / "alone" / end.id)


def test_members_that_stop_early_are_lost_or_refused_leave_the_others_as_they_are(asked, tmp_path, capsys):
    words = [
        asked({"seed": "1"}),
        asked({"training.stop.above": "0", "training.stop.every": "9"}),  # holds at its first look
        asked({"training.rate": "1e30"}),
        asked({"training.until": "13", "seed": "2"}),
        asked({"training.rate": "-1"}),
        asked({"start": "nobody@last", "seed": "4"}),
    ]
    ends = start_together("regression", words, tmp_path / "many", quiet)
    assert [end.state for end in ends] == ["finished", "finished", "failed", "finished", "refused", "refused"]
    assert "stopped early" in ends[1].reason and RunFolder(tmp_path / "many" / ends[1].id).status.step == 9
    assert "the last good checkpoint is kept" in ends[2].reason
    assert "training.rate" in ends[4].reason and "nobody" in ends[5].reason
    assert len(list((tmp_path / "many").glob("[0-9a-f]*"))) == 4
    for end in ends[:4]:
        assert_in_order(tmp_path / "many", end)
    for place in (0, 1, 3):
        assert_same_folder(tmp_path / "many" / ends[place].id, alone(words[place], tmp_path / "alone"))
    assert capsys.readouterr().err.count("Traceback") == 0
    again = start_together("regression", words[2:4], tmp_path / "many", quiet)
    assert [end.state for end in again] == ["failed", "finished"]


def test_branches_of_a_users_own_study(tmp_path, lookup):
    words = ["model.width=14", "model.layers=1", "model.heads=2", "training.batch=6", "training.steps=12"]
    words += ["record.training=5", 'record.evaluations={"kind":"every","steps":6}', "model.dropout=0.1"]
    many = [[*words, "seed=1"], [*words, "training.rate=0.1"], [*words, "training.clip=0.1", "seed=2"]]
    for own, end in zip(many, start_together(lookup, many, tmp_path / "many", quiet), strict=True):
        assert_same_folder(tmp_path / "many" / end.id, alone(own, tmp_path / "alone", lookup))


# ---------------------------------------------------------------- taken up again


def test_taken_up_in_other_company_and_alone(asked, tmp_path):
    words = [asked(own) for own in MEMBERS]
    root = tmp_path / "parts"
    ids = [end.id for end in start_together("regression", [[*w, "training.until=7"] for w in words[:3]], root, quiet)]
    resume(ids[0], ["training.until=none"], root, quiet)  # alone: as a member of a stack, because it was begun so
    assert [(s["form"], s["members"]) for s in RunFolder(root / ids[0]).segments] == [("stacked", 3), ("stacked", 1)]
    # The second goes on from 7 to 15 beside one that begins, then both, the third and a finished one to the end.
    start_together("regression", [[*words[1], "training.until=15"], words[3]], root, quiet)
    ends = start_together("regression", [words[2], words[1], words[0]], root, quiet)
    assert [end.state for end in ends] == ["finished"] * 3 and len(RunFolder(root / ids[0]).segments) == 2
    for own in words:
        assert_same_folder(root / (path := alone(own, tmp_path / "alone")).name, path)


def test_begun_alone_goes_on_alone_unless_told_otherwise(asked, tmp_path):
    run = start("regression", asked({"training.until": "7"}), tmp_path, quiet)
    resume(run.id, ["training.until=13"], tmp_path, quiet)
    assert [s["form"] for s in RunFolder(run.path).segments] == ["solo", "solo"]
    assert "resumed elsewhere" not in (run.path / "run.log").read_text()
    resume(run.id, ["engine=stacked", "training.until=none"], tmp_path, quiet)
    assert [s["form"] for s in RunFolder(run.path).segments] == ["solo", "solo", "stacked"]
    assert "form: solo before, stacked now" in (run.path / "run.log").read_text()


TOGETHER = """
import json, sys
from pathlib import Path
from inlearn.lab.stacked import start_together
ends = start_together("regression", json.loads(sys.argv[1]), Path(sys.argv[2]))
print(json.dumps([end.state for end in ends]))
"""


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_it_ends_with_the_same_bytes(asked, tmp_path, sign):
    longer = {"training.steps": "300", "record.rolling": "0.05", "record.checkpoints.steps": "50"}
    longer |= {"record.evaluations.steps": "100", "record.training": "50"}
    words, root = [asked(longer, own) for own in MEMBERS[:3]], tmp_path / "parts"
    command = [sys.executable, "-c", TOGETHER, json.dumps(words), str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for _ in range(2400):
        if len(list(root.glob("*/checkpoints/000000050/manifest.json"))) == 3:
            break
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, sign)
    said = process.communicate(timeout=60)[0]
    folders = [RunFolder(path) for path in root.glob("[0-9a-f]*")]
    if sign == signal.SIGTERM:
        assert json.loads(said.splitlines()[-1]) == ["interrupted"] * 3
        assert {folder.status.state for folder in folders} == {"interrupted"}
        assert all(50 <= folder.status.step < 300 for folder in folders)
    assert not any(lease_holder(folder.path) for folder in folders)
    ends = start_together("regression", words[1:], root, quiet)
    assert [end.state for end in ends] == ["finished"] * 2
    start("regression", words[0], root, quiet)
    for own in words:
        assert_same_folder(root / (path := alone(own, tmp_path / "alone")).name, path)


# ---------------------------------------------------------------- what befalls one


def test_a_run_held_by_another_process_is_busy_and_the_others_go_on(asked, tmp_path):
    words = [asked(own) for own in MEMBERS[:3]]
    held = alone([*words[1], "training.until=7"], tmp_path / "many")
    with Lease(held):
        before = results(held)
        ends = start_together("regression", words, tmp_path / "many", quiet)
        assert [end.state for end in ends] == ["finished", "busy", "finished"]
        assert results(held) == before and str(os.getpid()) in ends[1].reason
    for place in (0, 2):
        assert_same_folder(tmp_path / "many" / ends[place].id, alone(words[place], tmp_path / "alone"))
    assert start_together("regression", words, tmp_path / "many", quiet)[1].state == "finished"
    assert_same_folder(held, alone(words[1], tmp_path / "alone"))


def test_a_full_disk_below_one_folder_fails_that_run_alone(asked, tmp_path):
    words, root = [asked(own) for own in MEMBERS[:3]], tmp_path / "many"
    spoiled = alone([*words[1], "training.until=7"], root)
    saved = spoiled / "checkpoints"
    copy = shutil.copytree(saved, tmp_path / "copy")
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(saved)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        shutil.copytree(copy, saved, dirs_exist_ok=True)
        ends = start_together("regression", words, root, quiet)
        assert [end.state for end in ends] == ["finished", "failed", "finished"]
        assert "the disk is full" in ends[1].reason
        assert_in_order(root, ends[1])
    finally:
        subprocess.run(["umount", "--lazy", saved], check=True)
    for place in (0, 2):
        assert_same_folder(root / ends[place].id, alone(words[place], tmp_path / "alone"))
    assert start_together("regression", words, root, quiet)[1].state == "finished"
    assert_same_folder(spoiled, alone(words[1], tmp_path / "alone"))


@pytest.fixture
def broken(lookup, tmp_path):
    """A user's study with what `text` changes of it."""

    def written(text: str) -> str:
        source = Path(lookup).read_text().replace("    return make_study(self)", "    return broken(self, seeds)")
        path = tmp_path / "broken_study.py"
        path.write_text(source + text)
        return str(path)

    return written


MEASURE = """

def broken(config, seeds):
    study = make_study(config)
    looks = []

    def value(batch, space, prediction):
        looks.append(1)
        if seeds.data == 13 and len(looks) > 6:
            raise RuntimeError("thirteen")
        return space.loss(prediction, batch.at_scored(batch.targets))

    first, *rest = type(study).measures
    study.measures = (type(first)("loss", "nats", "-log p(answer)", value, (("cell",),)), *rest)
    return study
"""
SAMPLE = """

def broken(config, seeds):
    study = make_study(config)
    task = study.tasks["train"]

    class Raising:
        interface, labels = task.interface, task.labels

        def sample(self, at, rows, first=0):
            if at.stream == "data" and at.step == 8 and seeds.data == 13:
                raise RuntimeError("thirteen")
            return task.sample(at, rows, first)

    study.tasks = {"train": Raising(), "again": task}
    return study
"""


@pytest.mark.parametrize("text", [MEASURE, SAMPLE], ids=["measure", "sample"])
def test_a_users_study_that_raises_for_one_member(tmp_path, broken, text, capsys):
    study = broken(text)
    words = ["model.width=14", "model.layers=1", "model.heads=2", "training.batch=6", "training.steps=12"]
    words += ["record.training=5", 'record.evaluations={"kind":"every","steps":3}']
    many = [[*words, f"seed={seed}"] for seed in (1, 13, 2)]
    ends = start_together(study, many, tmp_path / "many", quiet)
    assert [end.state for end in ends] == ["finished", "refused", "finished"]  # as of a run alone: mend the study
    assert "broken_study.py, line" in ends[1].reason and "RuntimeError: thirteen" in ends[1].reason
    status = RunFolder(tmp_path / "many" / ends[1].id).status
    assert status.state == "failed" and "thirteen" in status.reason and capsys.readouterr().err.count("Traceback") == 0
    for place in (0, 2):
        assert_same_folder(tmp_path / "many" / ends[place].id, alone(many[place], tmp_path / "alone", study))


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({}, {"model.width": "32"}, "model.width = 16 and model.width = 32"),
        ({}, {"task.examples": "4"}, "task.examples = 3 and task.examples = 4"),
        ({}, {"training.steps": "25"}, "training.steps = 24 and training.steps = 25"),
        ({}, {}, "asked for twice"),
        ({}, {"name": "same-run"}, "asked for twice"),
        ({"training.accumulate": "2"}, {"seed": "1", "training.accumulate": "2"}, "training.accumulate = 2"),
        ({"engine": "solo"}, {"seed": "1"}, "execution.engine = solo"),
        (
            {"training.phases": '[{"steps":4,"end":{"below":9,"every":2}},{"steps":20}]'},
            {"seed": "1", "training.phases": '[{"steps":4,"end":{"below":9,"every":2}},{"steps":20}]'},
            "training.phases.0.end is a condition",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_one_stack_is_refused_before_anything_is_made(asked, tmp_path, one, other, said):
    with pytest.raises(UserError, match=said):
        start_together("regression", [asked(one), asked(other)], tmp_path, quiet)
    assert not list(tmp_path.iterdir())


def test_many_members_open_as_many_files_as_the_machine_allows(asked, tmp_path, monkeypatch):
    many = [asked({"seed": str(seed), "training.until": "1"}) for seed in range(12)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (200, 200))
    with pytest.raises(UserError, match=r"12 runs in one stack need 224 open files.* at most 9 \(engine.stack=9\)"):
        start_together("regression", many, tmp_path, quiet)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    own = len(os.listdir("/proc/self/fd"))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (own + 20, before[1]))
        ends = start_together("regression", many, tmp_path, quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [end.state for end in ends] == ["finished"] * 12


def test_several_processes_are_refused(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE = 2"):
        start_together("regression", [asked()], tmp_path, quiet)
    assert not list(tmp_path.iterdir())


def test_a_single_stacked_run_that_accumulates_is_refused(asked, tmp_path):
    with pytest.raises(UserError, match=r"training\.accumulate = 2: expected 1"):
        start("regression", asked({"training.accumulate": "2", "engine": "stacked"}), tmp_path, quiet)
    assert not list(tmp_path.glob("[0-9a-f]*"))


# ---------------------------------------------------------------- what each has for itself


def test_each_member_has_its_own_tracker(asked, tmp_path):
    pytest.importorskip("tensorboard")
    words = [asked(own, {"track.tensorboard": "true"}) for own in MEMBERS[:3]]
    words[2].remove("track.tensorboard=true")
    ends = start_together("regression", words, tmp_path / "many", quiet)
    paths = [tmp_path / "many" / end.id for end in ends]
    sizes = [[file.stat().st_size for file in (path / "tensorboard").rglob("events*")] for path in paths]
    assert [len(each) for each in sizes] == [1, 1, 0] and min(sizes[0] + sizes[1]) > 1000
    for own, path in zip(MEMBERS, paths, strict=False):
        bare = alone(asked(own), tmp_path / "alone")
        here = {name: data for name, data in results(path).items() if not name.startswith("tensorboard")}
        assert here == results(bare)


def test_evaluators_of_a_stack_share_the_room_that_one_alone_has(asked, tmp_path, monkeypatch):
    """What is kept between evaluations does not grow with members, and lines do not depend on what is kept."""
    from inlearn.lab import sitting

    words = [asked(own) for own in MEMBERS[:3]]
    ends = start_together("regression", words, tmp_path / "roomy", quiet)
    monkeypatch.setattr(sitting, "KEPT", 3)  # one number each: nothing fits
    start_together("regression", words, tmp_path / "tight", quiet)
    for end in ends:
        assert_same_folder(tmp_path / "roomy" / end.id, tmp_path / "tight" / end.id)
