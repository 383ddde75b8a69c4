"""W&B and TensorBoard hear what the folder holds, and nothing that happens to them changes a run."""

from __future__ import annotations

import json
import logging
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from inlearn.core.errors import UserError
from inlearn.lab.config import Track
from inlearn.lab.session import resume, start
from inlearn.lab.trackers import choice, wandb_mirror
from inlearn.lab.trackers.guarded import Guarded
from inlearn.lab.trackers.scalars import scalars
from inlearn.lab.trackers.wandb_mirror import wandb_mode
from inlearn.runs.folder import RunFolder
from inlearn.runs.lines import read_lines
from inlearn.training.loop import Outcome

BLOCK, WHOLE, LAST = 32768, 1, 4
INLEARN = [sys.executable, "-m", "inlearn.cli.main"]
LONG = {"training.steps": "3000", "record.evaluations.steps": "500", "record.checkpoints": "never"}


def quiet(text: str) -> None:
    pass


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


def long(tiny: tuple[str, ...], **more: str) -> list[str]:
    """Overrides of a run of some seconds."""
    asked = dict(text.split("=", 1) for text in tiny) | LONG | more
    return [f"{key}={value}" for key, value in asked.items()]


def wait_for(condition, process: subprocess.Popen | None = None):
    """What `condition` returns once it is true."""
    for _ in range(2400):
        if found := condition():
            return found
        assert process is None or process.poll() is None, "the run ended too soon"
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def offline_runs(run: Path) -> list[Path]:
    return sorted((run / "wandb").glob("offline-run-*"))


def records(place: Path) -> list:
    """What `wandb sync` would upload: a LevelDB log of W&B's own protocol messages after seven bytes of header."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = place.glob("*.wandb")
    content, found, begun, at = file.read_bytes(), [], b"", 7
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK  # no header fits into the end of a block
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        begun += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (WHOLE, LAST):
            found.append(Record.FromString(begun))
            begun = b""
    return found


def items(updates) -> dict:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in updates}


def rows(place: Path) -> list[dict]:
    found = [items(record.history.item) for record in records(place) if record.HasField("history")]
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in found]


def expected_rows(run: Path, first: int = 0) -> list[dict]:
    by_step: dict[int, dict] = {}
    for line in read_lines(run / "metrics.jsonl"):
        by_step.setdefault(line["step"], {"step": line["step"]}).update(scalars(line))
    return [row for step, row in by_step.items() if step >= first]


def warnings(run: Path) -> list[str]:
    return [line for line in (run / "run.log").read_text().splitlines() if " WARNING " in line]


# ---------------------------------------------------------------- names


def test_names_are_those_of_record_best():
    line = {"event": "evaluation", "step": 3, "set": "train", "learner": "model", "measure": "distance",
            "reference": "ridge", "by": [], "at": [[]], "mean": [0.5]}  # fmt: skip
    assert scalars(line) == {"train/distance/ridge": 0.5}
    assert scalars({**line, "measure": "loss", "reference": None}) == {"train/loss": 0.5}
    assert scalars({**line, "learner": "zero"}) == {"references/zero/train/distance/ridge": 0.5}
    sliced = {**line, "by": ["gain"], "at": [[0], [2]], "mean": [0.5, None]}
    assert scalars(sliced) == {"train/distance/ridge/gain_0": 0.5}
    assert scalars({**sliced, "by": ["gain", "position"], "at": [[0, 1], [0, 2]]}) == {}
    assert scalars({**sliced, "at": [[i] for i in range(33)], "mean": [1.0] * 33}) == {}
    assert scalars({"event": "training", "step": 7, "loss": 2.0, "rate": 0.1}) == {
        "training/loss": 2.0,
        "training/rate": 0.1,
    }


# ---------------------------------------------------------------- W&B


def test_an_offline_run_holds_metrics_configuration_code_and_report(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "from-environment")
    monkeypatch.setenv("WANDB_ENTITY", "a-team")
    run = start("regression", [*tiny, "name=seen", 'tags=["a","b"]', "track.project=given"], tmp_path, quiet)
    (place,) = offline_runs(run.path)
    (header,) = [record.run for record in records(place) if record.HasField("run")]
    assert (header.run_id, header.display_name, list(header.tags)) == (run.id, "seen", ["a", "b"])
    assert (header.project, header.entity) == ("given", "a-team")
    config = items(header.config.update)
    stored = json.loads((run.path / "config.json").read_text())
    assert config["study"] == stored["config"]["study"] and config["training"] == stored["config"]["training"]
    assert config["seeds"] == stored["config"]["seeds"] and config["run"] == run.id

    assert rows(place) == expected_rows(run.path)
    assert {"training/loss", "train/loss", "train/distance/ridge"} <= set().union(*rows(place))
    axes = [record.metric for record in records(place) if record.HasField("metric")]
    assert any(metric.glob_name == "*" and metric.step_metric == "step" for metric in axes)
    summary = {}
    for record in records(place):
        summary |= items(record.summary.update)
    ridge = next(line for line in read_lines(run.path / "references.jsonl") if line["learner"] == "ridge")
    assert summary["references/ridge/train/loss"] == ridge["mean"][0] and summary["state"] == "finished"
    assert [record.exit.exit_code for record in records(place) if record.HasField("exit")] == [0]

    saved = {f.path for record in records(place) if record.HasField("files") for f in record.files.files}
    assert saved == {"report.html", "code/inlearn.zip", "requirements.txt"}
    assert (place / "files/report.html").read_bytes() == (run.path / "report.html").read_bytes()
    archive = zipfile.ZipFile(place / "files/code/inlearn.zip")
    source = Path(wandb_mirror.__file__)
    assert archive.read("inlearn/lab/trackers/wandb_mirror.py") == source.read_bytes()
    assert not any(path.is_symlink() for path in (place / "files").rglob("*"))  # whole when it is moved
    assert warnings(run.path) == []


def test_a_users_own_study_is_in_the_code(tmp_path, lookup):
    run = start(lookup, ["training.steps=2", "track.wandb=offline"], tmp_path, quiet)
    (place,) = offline_runs(run.path)
    archive = zipfile.ZipFile(place / "files/code/inlearn.zip")
    assert archive.read("source.py") == Path(lookup).read_bytes()


def test_trackers_change_no_bit(tiny, tmp_path):
    plain = start("regression", tiny, tmp_path / "plain", quiet).path
    seen = start("regression", [*tiny, "track.wandb=offline", "track.tensorboard=true"], tmp_path / "seen", quiet).path
    for path in [*plain.rglob("*.safetensors"), plain / "metrics.jsonl", plain / "references.jsonl"]:
        assert (seen / path.relative_to(plain)).read_bytes() == path.read_bytes(), path


def test_a_resumed_run_is_the_same_run_and_misses_no_step(tiny, tmp_path):
    """Also where the first process had no tracker: it is told what the folder holds."""
    run = start("regression", [*tiny, "training.until=20"], tmp_path, quiet)
    resume(run.id, ["training.until=40", "track.wandb=offline", "track.tensorboard=true"], tmp_path, quiet)
    resume(run.id, ["training.until=none"], tmp_path, quiet)
    first, second = offline_runs(run.path)
    ids = [record.run.run_id for place in (first, second) for record in records(place) if record.HasField("run")]
    assert ids == [run.id, run.id]
    # The look at step 40 came after its checkpoint, for 40 was the end: the second process saw it once more.
    assert rows(first) + [row for row in rows(second) if row["step"] > 40] == expected_rows(run.path)
    assert tensorboard(run.path) == expected_series(run.path)


def test_environment_and_keys_decide_whether_w_and_b_is_on():
    assert wandb_mode(Track(), {}) is None
    assert wandb_mode(Track(), {"WANDB_MODE": "offline"}) == "offline"
    assert wandb_mode(Track(), {"WANDB_MODE": "online"}) == "online"
    assert wandb_mode(Track(), {"WANDB_SWEEP_ID": "x"}) == "online"
    assert wandb_mode(Track(), {"WANDB_SWEEP_ID": "x", "WANDB_MODE": "disabled"}) is None
    assert wandb_mode(Track(wandb="disabled"), {"WANDB_MODE": "online"}) is None
    assert wandb_mode(Track(wandb="offline"), {"WANDB_MODE": "disabled"}) == "offline"
    with pytest.raises(UserError, match="WANDB_MODE=onlin: expected online, offline or disabled"):
        wandb_mode(Track(), {"WANDB_MODE": "onlin"})


@pytest.mark.parametrize("asked", ["track.wandb=offline", "track.tensorboard=true"])
def test_a_missing_package_is_told_before_anything_is_made(tiny, tmp_path, monkeypatch, asked):
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'inlearn\[(wandb|tensorboard)\]'"):
        start("regression", [*tiny, asked], tmp_path / "runs", quiet)
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_offline_runs_is_not_taken_for_the_package(tmp_path, monkeypatch):
    (tmp_path / "not_installed_anywhere").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not choice._installed("not_installed_anywhere")


@pytest.mark.parametrize("key", [None, "f" * 40])
def test_without_a_key_or_a_server_the_run_is_kept_offline(tiny, tmp_path, monkeypatch, key):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    run = start("regression", [*tiny, "track.wandb=online"], tmp_path, quiet)
    (warning,) = warnings(run.path)
    assert "W&B cannot be used online, so this run is kept offline" in warning
    assert run.folder.status.state == "finished"
    (place,) = offline_runs(run.path)
    assert rows(place) == expected_rows(run.path)


def test_below_an_agent_the_agents_id_is_used(tiny, tmp_path, monkeypatch):
    for name, value in {"WANDB_SWEEP_ID": "sw33p", "WANDB_RUN_ID": "agents1d", "WANDB_MODE": "offline"}.items():
        monkeypatch.setenv(name, value)
    run = start("regression", tiny, tmp_path, quiet)
    (place,) = offline_runs(run.path)
    (header,) = [record.run for record in records(place) if record.HasField("run")]
    assert (header.run_id, header.sweep_id) == ("agents1d", "sw33p")
    assert items(header.config.update)["run"] == run.id


# ---------------------------------------------------------------- trackers that die


def children(pid: int) -> dict[int, str]:
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return {int(line.split()[0]): line for line in found.splitlines()}


def process_of(pid: int, word: str) -> int | None:
    return next((child for child, words in children(pid).items() if word in words), None)


def last_step(root: Path) -> int:
    """Of the only run below `root`; -1 before its first line."""
    lines = [line for file in root.glob("*/metrics.jsonl") for line in read_lines(file)]
    return lines[-1]["step"] if lines else -1


@pytest.fixture
def training(tiny, tmp_path):
    """A run of some seconds under way in its own process, its W&B process, and W&B's service below that."""
    log = (tmp_path / "output").open("w")
    words = ["run", "regression", *long(tiny), "track.wandb=offline", "name=watched", "--runs", str(tmp_path)]
    process = subprocess.Popen([*INLEARN, *words], stdout=log, stderr=log)
    tracker = service = 0
    try:
        tracker = wait_for(lambda: process_of(process.pid, "wandb_process"), process)
        service = wait_for(lambda: process_of(tracker, "wandb-core"), process)
        wait_for(lambda: last_step(tmp_path) > 300, process)
        yield process, tracker, service
    finally:
        process.kill()
        process.wait()
        log.close()
        for pid in (service, tracker):
            if pid and Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("whom", ["process", "service"])
def test_killing_w_and_b_costs_one_warning(training, tmp_path, whom):
    process, tracker, service = training
    os.kill(tracker if whom == "process" else service, signal.SIGKILL)
    assert process.wait(60) == 0
    run = RunFolder.open(tmp_path, "watched")
    assert run.status.state == "finished" and run.status.step == 3000
    (warning,) = warnings(run.path)
    assert "W&B hears no more of this run, which goes on without it" in warning
    assert "Traceback" not in (tmp_path / "output").read_text()


def test_ctrl_c_and_a_signal_to_all_are_the_runs_own(training, tmp_path):
    """As a scheduler does: every process of the job is told. The run saves; W&B hears to the end."""
    process, tracker, _service = training
    for pid in (tracker, process.pid):
        os.kill(pid, signal.SIGTERM)
    assert process.wait(60) == 0
    run = RunFolder.open(tmp_path, "watched")
    assert run.status.state == "interrupted" and warnings(run.path) == []
    (place,) = offline_runs(run.path)
    assert rows(place)[-1]["step"] == read_lines(run.path / "metrics.jsonl")[-1]["step"]
    assert any(record.HasField("preempting") for record in records(place))
    assert [record.exit.exit_code for record in records(place) if record.HasField("exit")] == [1]


def test_a_killed_run_is_a_failed_one_in_w_and_b(training, tmp_path):
    process, tracker, _service = training
    process.kill()
    process.wait()
    wait_for(lambda: not Path(f"/proc/{tracker}").exists())
    (place,) = offline_runs(RunFolder.open(tmp_path, "watched").path)
    assert [record.exit.exit_code for record in records(place) if record.HasField("exit")] == [1]


def test_a_tracker_that_hangs_at_the_end_is_left_behind(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_mirror, "FINISH_SECONDS", 0.5)
    stopped = []

    def stop(self, outcome):
        process = self.feed.process.pid
        stopped.append(process)
        os.kill(process, signal.SIGSTOP)
        return end(self, outcome)

    end = wandb_mirror.WandbMirror.end
    monkeypatch.setattr(wandb_mirror.WandbMirror, "end", stop)
    run = start("regression", [*tiny, "track.wandb=offline"], tmp_path, quiet)
    (warning,) = warnings(run.path)
    assert "did not finish within 0.5 s" in warning and run.folder.status.state == "finished"
    assert not Path(f"/proc/{stopped[0]}").exists()


def test_a_process_that_does_not_read_is_given_up(tmp_path, monkeypatch):
    from inlearn.lab.trackers import feed

    monkeypatch.setattr(feed, "WAITING", 20)
    line = feed.Feed("inlearn.lab.trackers.wandb_process", tmp_path / "log", lambda message: None)
    os.kill(line.process.pid, signal.SIGSTOP)
    with pytest.raises(RuntimeError, match="20 messages wait unread"):
        for _ in range(200):
            line.send({"log": "x" * 10_000})
    assert line.process.returncode == -signal.SIGKILL


def test_any_failure_of_a_tracker_costs_one_warning(caplog):
    heard = []

    class Broken:
        def line(self, line):
            heard.append(line)
            raise ZeroDivisionError

    log = logging.getLogger("test")
    guarded = Guarded("Broken", Broken, log.warning)
    for step in range(3):
        guarded.line({"step": step})
        guarded.checkpoint(step)
    guarded.end(Outcome("finished"))
    assert len(heard) == 1
    (record,) = caplog.records
    assert record.getMessage() == "Broken hears no more of this run, which goes on without it: ZeroDivisionError"


# ---------------------------------------------------------------- TensorBoard


def tensorboard(run: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(run / "tensorboard"), {"scalars": 0})
    reader.Reload()
    names = [name for name in reader.Tags()["scalars"] if not name.startswith("references/")]
    return {name: {e.step: pytest.approx(e.value, rel=1e-6) for e in reader.Scalars(name)} for name in names}


def expected_series(run: Path) -> dict[str, dict[int, float]]:
    series: dict[str, dict[int, float]] = {}
    for row in expected_rows(run):
        for name, value in row.items():
            if name != "step":
                series.setdefault(name, {})[row["step"]] = value
    return series


def test_tensorboard_holds_the_metrics_of_a_run_that_was_killed(tiny, tmp_path):
    """What the killed process wrote after its last checkpoint is void, as it is in metrics.jsonl."""
    more = {"record.checkpoints": '{"kind":"every","steps":500}', "training.steps": "1500", "track.tensorboard": "true"}
    words = ["run", "regression", *long(tiny, **more), "--runs", str(tmp_path)]
    process = subprocess.Popen([*INLEARN, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: last_step(tmp_path) > 600, process)
    process.kill()
    process.communicate()
    (run,) = (file.parent for file in tmp_path.glob("*/metrics.jsonl"))
    resume(run.name, [], tmp_path, quiet)
    assert tensorboard(run) == expected_series(run)
    assert len(list((run / "tensorboard").iterdir())) == 2


def test_a_tensorboard_that_cannot_write_costs_one_warning(tiny, tmp_path):
    run = start("regression", [*tiny, "training.until=20"], tmp_path, quiet)
    (run.path / "tensorboard").write_text("in the way")
    resume(run.id, ["training.until=none", "track.tensorboard=true"], tmp_path, quiet)
    (warning,) = warnings(run.path)
    assert "TensorBoard hears no more" in warning and run.folder.status.state == "finished"


# ---------------------------------------------------------------- configuration


def test_a_run_folder_from_before_trackers_opens_and_goes_on(tiny, tmp_path):
    run = start("regression", [*tiny, "training.until=20"], tmp_path, quiet)
    document = json.loads((run.path / "config.json").read_text())
    del document["unhashed"]["track"]
    (run.path / "config.json").write_text(json.dumps(document))
    assert resume(run.id, ["training.until=30"], tmp_path, quiet).config.track == Track()
    assert RunFolder.open(tmp_path, run.id).status.step == 30


def test_trackers_are_no_part_of_what_a_run_is(tiny, tmp_path):
    run = start("regression", tiny, tmp_path, quiet)
    again = start("regression", [*tiny, "track.project=other", "track.wandb=offline"], tmp_path, quiet)
    assert again.id == run.id and not offline_runs(run.path)  # it was finished: nothing is written any more
