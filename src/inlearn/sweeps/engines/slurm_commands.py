"""Slurm's own commands: asked, read, and their refusals turned into ours. `sacct` is not used: it may be absent."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from inlearn.core.errors import EnvironmentFault, UserError

COMMANDS = ("sinfo", "sbatch", "srun", "squeue", "scontrol", "scancel")
COMMAND_SECONDS = 60.0
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
"""States that a job does not leave; in any other one it runs, or will."""

_UNREACHABLE = ("unable to contact", "timed out", "connection refused", "could not establish", "fetch_config")


def installed() -> None:
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        raise EnvironmentFault(
            f"engine=slurm needs Slurm's commands, and {', '.join(missing)} cannot be found here; "
            "log in to a node of the cluster that submits jobs, or use engine=local"
        )


def ask(*command: str) -> str:
    """What a command of Slurm prints; `EnvironmentFault` or `UserError` in Slurm's own words where it refuses."""
    try:
        # Ctrl-C in the terminal is for us alone: a command that is broken off would look like a refusal.
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, start_new_session=True)
    except subprocess.TimeoutExpired:
        raise EnvironmentFault(f"Slurm does not answer: {command[0]} took over {COMMAND_SECONDS:.0f} s") from None
    if done.returncode:
        raise refusal(command[0], done.stderr or done.stdout)
    return done.stdout


def refusal(command: str, text: str) -> UserError | EnvironmentFault:
    """The error for what a command of Slurm complained of: its sentences without the repeated names of commands."""
    lines = [re.sub(r"^(\w+: )?(error|fatal): ", "", line.strip()) for line in text.splitlines() if line.strip()]
    said = "; ".join(dict.fromkeys(lines)) or f"{command} failed without a word"
    if any(sign in said.lower() for sign in _UNREACHABLE):
        return EnvironmentFault(f"Slurm cannot be reached: {said}")
    return UserError(f"Slurm refuses ({command}): {said}")


@dataclass(frozen=True)
class Queued:
    """A job, or one task of an array: its state as squeue spells it, and the name it was submitted under."""

    state: str
    name: str

    @property
    def alive(self) -> bool:
        return self.state not in ENDED


def queue() -> dict[str, Queued]:
    """The user's own jobs by id (123, or 123_4 for a task of an array); ended ones stay for some minutes."""
    lines = ask("squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%j").splitlines()
    return {id: Queued(state, name) for id, state, name in (line.split("|", 2) for line in lines)}


def state_of(job: str) -> str | None:
    """The state of one job (an id of its own, also for a task of an array); None where Slurm does not say."""
    try:
        found = re.search(r"\bJobState=(\w+)", ask("scontrol", "show", "job", job))
    except (UserError, EnvironmentFault):
        return None
    return found and found[1]


def most_tasks() -> int:
    """How many tasks an array may have: their highest index is one less than MaxArraySize."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"))
    return int(found[1]) if found else 1000


# ---------------------------------------------------------------- partitions


@dataclass(frozen=True)
class Nodes:
    """Equal nodes of a partition. `memory`: MiB of one node, as far as the cluster tells."""

    cpus: int
    memory: int
    gpus: int


@dataclass(frozen=True)
class Partition:
    """`minutes`: its time limit, None where it has none."""

    name: str
    default: bool
    minutes: int | None
    nodes: tuple[Nodes, ...]


def partitions() -> dict[str, Partition]:
    """The partitions that are up, by name."""
    found: dict[str, Partition] = {}
    for line in ask("sinfo", "--noheader", "--format=%P|%a|%l|%c|%m|%G").splitlines():
        label, up, limit, cpus, memory, gres = line.split("|")
        if up != "up":
            continue
        nodes = Nodes(_number(cpus), _number(memory), _gpus(gres))
        name = label.rstrip("*")
        before = found[name].nodes if name in found else ()
        found[name] = Partition(name, label.endswith("*"), minutes(limit), (*before, nodes))
    return found


def minutes(limit: str) -> int | None:
    """sinfo's time limit (20:00, 1-00:00:00, infinite) in minutes."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if found is None:
        return None
    days, hours, minutes_, seconds = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes_ + (seconds > 0)


def _number(text: str) -> int:
    return int(text.rstrip("+"))  # "8+" where nodes differ: at least eight


def _gpus(gres: str) -> int:
    """gpu:2, gpu:a100:8(S:0-1), several by commas."""
    counts: Sequence[str] = re.findall(r"\bgpu(?::[\w.-]+)??:(\d+)", gres)
    return sum(int(count) for count in counts)
