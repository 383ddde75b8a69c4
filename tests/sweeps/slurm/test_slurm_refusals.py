"""What Slurm, or the lack of it, refuses: one sentence, and nothing half-made."""

from __future__ import annotations

from pathlib import Path

import pytest

from inlearn.core.configuration import resolve
from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.sweeps.engine import Job, Wanted
from inlearn.sweeps.engines import slurm_commands
from inlearn.sweeps.engines.config import SlurmConfig
from inlearn.sweeps.engines.slurm import SlurmEngine, cancel
from inlearn.sweeps.engines.slurm_commands import Nodes, Partition
from inlearn.sweeps.engines.slurm_resources import resources


def carry_out(tmp_path: Path, **config) -> None:
    def report(result):
        raise AssertionError(f"nothing was begun: {result}")

    (tmp_path / "plan").mkdir(exist_ok=True)
    job = Job((Wanted("0123456789ab", ()),), "regression", str(tmp_path))
    SlurmEngine(resolve(SlurmConfig, config), tmp_path / "plan").carry_out([job], report, lambda: False)


def test_a_request_that_slurm_rejects_leaves_nothing(node, tmp_path, capfd):
    with pytest.raises(UserError, match="Invalid feature specification"):
        carry_out(tmp_path, time=5, constraint="nosuch", memory="100M")
    folder = tmp_path / "plan/slurm"
    assert (folder / "jobs.json").read_text() == "[]\n"
    assert not [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("code-")]
    assert "sbatch: error" not in capfd.readouterr().err
    with pytest.raises(UserError, match=r"did you mean 'engine.partition=short'"):
        carry_out(tmp_path, partition="shrt")
    with pytest.raises(UserError, match=r"engine.time = 30: .* at most 20 minutes"):
        carry_out(tmp_path, time=30)
    assert node.queue() == {}


def test_what_is_left_out_comes_from_sinfo(node):
    said = []
    found = slurm_commands.partitions()
    asked = resources(SlurmConfig(), found, said.append)
    assert (asked.partition, asked.minutes, asked.memory) == ("short", 20, "1024M")
    assert "the default" in said[0] and "its limit" in said[0]
    endless = resources(SlurmConfig(partition="endless", cpus=2), found, said.append)
    assert (endless.minutes, endless.memory) == (24 * 60, "2048M") and "no limit" in said[1]
    assert slurm_commands.most_tasks() == 1001


def test_a_controller_that_is_gone_is_a_fault_of_the_machine(node, tmp_path, monkeypatch):
    text = (node.folder / "slurm.conf").read_text()
    port = next(line for line in text.splitlines() if line.startswith("SlurmctldPort"))
    (tmp_path / "slurm.conf").write_text(text.replace(port, "SlurmctldPort=9"))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(EnvironmentFault, match=r"Slurm cannot be reached: .*[Uu]nable to contact slurm controller"):
        carry_out(tmp_path)
    assert not (tmp_path / "plan/slurm").exists()


def test_without_slurm_and_without_submitit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFault, match=r"needs Slurm's commands, and sinfo, .*engine=local"):
        carry_out(tmp_path)
    assert not (tmp_path / "plan/slurm").exists()


def test_cancelling_where_slurm_cannot_be_asked_still_tells_the_tasks(tmp_path, monkeypatch):
    (tmp_path / "slurm/one").mkdir(parents=True)
    (tmp_path / "slurm/jobs.json").write_text('[{"folder": "one", "array": "1", "tasks": 1}]')
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFault):
        cancel(tmp_path)
    assert (tmp_path / "slurm/one/leave.json").exists()


@pytest.mark.parametrize(
    ("given", "minutes"), [("90", 90), ("01:30:00", 90), ("00:00:01", 1), ("2-00:00:30", 2 * 24 * 60 + 1)]
)
def test_times(given, minutes):
    assert resolve(SlurmConfig, {"time": given}).time == minutes


@pytest.mark.parametrize("wrong", [{"time": "1h"}, {"time": "0"}, {"memory": "16 GB"}, {"gpus": 2}])
def test_values_that_slurm_would_not_understand(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        resolve(SlurmConfig, wrong)


@pytest.mark.parametrize(("limit", "minutes"), [("20:00", 20), ("1-00:00:00", 1440), ("0:30", 1), ("infinite", None)])
def test_limits_of_sinfo(limit, minutes):
    assert slurm_commands.minutes(limit) == minutes


def test_resources_of_clusters_that_are_not_here():
    big = Partition("big", False, 60, (Nodes(64, 256_000, 0), Nodes(32, 512_000, 4)))
    other = Partition("other", False, None, (Nodes(8, 1, 0),))

    def asked(found: list[Partition], **config):
        return resources(resolve(SlurmConfig, config), {part.name: part for part in found}, lambda text: None)

    assert asked([big]).memory == "4000M"  # one of 64 cores, on the poorer nodes
    assert asked([big], gpus=1).memory == "128000M"  # one of four cards
    assert asked([other]).memory is None  # a node whose memory was never configured
    with pytest.raises(UserError, match=r"engine.partition is missing.* big, other"):
        asked([big, other])
    with pytest.raises(UserError, match="no node of partition other has a GPU"):
        asked([other], gpus=1)
    with pytest.raises(UserError, match=r"engine.cpus = 65: expected at most 64"):
        asked([big], cpus=65)
    with pytest.raises(UserError, match=r"engine.signal_seconds = 3590: .* at most 3540"):
        asked([big], signal_seconds=3590)
    with pytest.raises(UserError, match="no partition of this cluster is up"):
        asked([])


@pytest.mark.parametrize(
    ("gres", "gpus"), [("(null)", 0), ("gpu:2", 2), ("gpu:a100:8(S:0-1)", 8), ("gpu:a:1,gpu:b:2,fpga:1", 3)]
)
def test_cards_of_sinfo(gres, gpus):
    assert slurm_commands._gpus(gres) == gpus


def test_an_unreachable_controller_is_told_from_a_refusal():
    far = slurm_commands.refusal(
        "squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    )
    assert isinstance(far, EnvironmentFault)
    near = slurm_commands.refusal("sbatch", "sbatch: error: invalid\nsbatch: error: Batch job submission failed: no")
    assert str(near) == "Slurm refuses (sbatch): invalid; Batch job submission failed: no"
