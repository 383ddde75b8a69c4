"""What every task of an array asks Slurm for: what the user says, and `sinfo` for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from inlearn.core.errors import UserError, unknown
from inlearn.sweeps.engines.config import SlurmConfig
from inlearn.sweeps.engines.slurm_commands import Nodes, Partition

ENDLESS_MINUTES = 24 * 60  # where a partition has no limit: a shorter task starts earlier, and is requeued if need be
STARTING_SECONDS = 60  # Slurm sends the signal up to a minute early, and Python needs some seconds to start


@dataclass(frozen=True)
class Resources:
    """`minutes`: the time limit. `memory` as sbatch spells it; None leaves it to the cluster."""

    partition: str
    minutes: int
    memory: str | None


def resources(config: SlurmConfig, found: Mapping[str, Partition], say: Callable[[str], None]) -> Resources:
    """Complete `config`, and tell what was taken from where; `UserError` for what the partition cannot give."""
    partition = _partition(config, found)
    nodes = _fitting(config, partition)
    remarks = [f"partition {partition.name}" + ("" if config.partition else " (the default)")]
    limit = partition.minutes
    if config.time and limit and config.time > limit:
        raise UserError(
            f"engine.time = {config.time}: expected at most {limit} minutes, the limit of partition {partition.name}"
        )
    time = config.time or limit or ENDLESS_MINUTES
    why = "" if config.time else " (its limit)" if limit else " (it has no limit; engine.time sets another)"
    remarks.append(f"{time} minutes{why}")
    if time * 60 < config.signal_seconds + STARTING_SECONDS:
        raise UserError(
            f"engine.signal_seconds = {config.signal_seconds}: a task of {time} minutes would be told to save before "
            f"it has begun; expected at most {max(0, time * 60 - STARTING_SECONDS)}, or a longer engine.time"
        )
    memory = config.memory or _share(config, nodes)
    if memory is None:
        remarks.append("memory as the cluster sets it (it does not tell what its nodes have)")
    else:
        remarks.append(f"{memory} of memory" + ("" if config.memory else " (a node's, by the share of cores or GPUs)"))
    say(f"Slurm: {', '.join(remarks)}")
    return Resources(partition.name, time, memory)


def _partition(config: SlurmConfig, found: Mapping[str, Partition]) -> Partition:
    if not found:
        raise UserError("engine=slurm: no partition of this cluster is up (sinfo)")
    if config.partition is not None:
        if config.partition not in found:
            raise unknown("partition", config.partition, found, "engine.partition=")
        return found[config.partition]
    default = [partition for partition in found.values() if partition.default]
    if len(default or found) != 1:
        raise UserError(f"engine.partition is missing, and the cluster has no default: one of {', '.join(found)}")
    return (default or list(found.values()))[0]


def _fitting(config: SlurmConfig, partition: Partition) -> list[Nodes]:
    """The nodes of the partition that can take a task at all."""
    nodes = [kind for kind in partition.nodes if kind.gpus >= config.gpus]
    if not nodes:
        raise UserError(f"engine.gpus = {config.gpus}: no node of partition {partition.name} has a GPU")
    most = max(kind.cpus for kind in nodes)
    if config.cpus > most:
        raise UserError(f"engine.cpus = {config.cpus}: expected at most {most}, what a node of {partition.name} has")
    return [kind for kind in nodes if kind.cpus >= config.cpus]


def _share(config: SlurmConfig, nodes: list[Nodes]) -> str | None:
    """The part of a node's memory that goes with its cores or GPUs asked for, of the poorest node that fits."""
    shares = [kind.memory * max(config.cpus / kind.cpus, config.gpus / max(1, kind.gpus)) for kind in nodes]
    # A node whose memory was never configured reports 1 MiB.
    return f"{math.floor(min(shares))}M" if min(kind.memory for kind in nodes) > 1 else None
