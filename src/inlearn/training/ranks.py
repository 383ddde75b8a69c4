"""The processes that train one run together, and what they tell each other beside gradients.

torchrun (or anything that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT) starts them. The first one writes and
speaks; what depends on time, signals or measurements is agreed, so that all of them take the same step next.
Agreements go through a gloo group of their own, whose long time-out outlasts an evaluation; only JSON and tensors
are sent, never pickles.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from inlearn.core.errors import EnvironmentFault, UserError

PATIENCE = timedelta(hours=12)  # how long the others wait for the first to evaluate, or to write a checkpoint
_FAILURE = "inlearn/failure"


class PeerLost(EnvironmentFault):
    """Another process of the run is gone without a word: killed, or its machine is down."""


class PeerFailed(EnvironmentFault):
    """Another process of the run failed and has said why; this one ends with the same `status`, in silence."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Ranks:
    """`world` processes, of which this is number `rank`; on its own machine it is number `local`. Alone by default."""

    rank: int = 0
    world: int = 1
    local: int = 0
    control: Any = None  # the gloo group of agreements
    store: Any = None  # where a process that fails leaves its reason

    @property
    def first(self) -> bool:
        return self.rank == 0

    # ------------------------------------------------------------ numbers

    def mean(self, value: Tensor) -> Tensor:
        """The mean over processes of a tensor on the training device, in place; alone, the tensor itself."""
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any process."""
        if self.world == 1:
            return flag
        raised = torch.tensor([flag], dtype=torch.uint8)
        dist.all_reduce(raised, dist.ReduceOp.MAX, self.control)
        return bool(raised)

    # ------------------------------------------------------------ what the first knows

    def from_first(self, value: Any = None) -> Any:
        """The first process's `value` (plain JSON) in every process; the others' is ignored."""
        if self.world == 1:
            return value
        text = json.dumps(value).encode() if self.first else b""
        size = torch.tensor([len(text)])
        dist.broadcast(size, 0, self.control)
        sent = torch.frombuffer(bytearray(text), dtype=torch.uint8) if self.first else torch.empty(int(size)).byte()
        dist.broadcast(sent, 0, self.control)
        return value if self.first else json.loads(sent.numpy().tobytes())

    def tensors_from_first(self, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The first process's CPU tensors in every process, sent one by one."""
        own = dict(tensors or {})
        if self.world == 1:
            return own
        kinds = [(name, list(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in own.items()]
        for name, shape, dtype in self.from_first(kinds):
            value = own[name].contiguous() if self.first else torch.empty(shape, dtype=getattr(torch, dtype))
            if value.numel():
                dist.broadcast(value, 0, self.control)
            own[name] = value
        return own

    # ------------------------------------------------------------ failures

    def explain(self, error: Exception) -> Exception:
        """What stands behind `error`: a broken connection is the doing of another process, if there is one."""
        broken = isinstance(error, dist.DistError) or re.search("gloo|NCCL|Connection (closed|reset)", str(error))
        if self.world == 1 or not (isinstance(error, RuntimeError) and broken) or isinstance(error, EnvironmentFault):
            return error
        told = None
        with contextlib.suppress(RuntimeError):  # the store ends with the process or machine that holds it
            told = json.loads(self.store.get(_FAILURE)) if self.store.check([_FAILURE]) else None
        if told is not None:
            return PeerFailed(f"process {told['rank']} of {self.world} failed: {told['text']}", told["status"])
        return PeerLost(
            f"another of the {self.world} processes that train this run is gone; "
            "the last checkpoint is kept, and the same command goes on from it"
        )

    def claim(self, error: Exception) -> bool:
        """Leave the reason for failing; False if another process did so before, and has the word."""
        status = 2 if isinstance(error, UserError) else 1
        mine = json.dumps({"rank": self.rank, "status": status, "text": f"{type(error).__name__}: {error}"})
        with contextlib.suppress(RuntimeError):
            return self.store.compare_set(_FAILURE, "", mine).decode() == mine
        return self.first


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that this one was started with, connected; one alone where there are no others.

    When one of them fails the others end as soon as they notice, with its exit status: one process says why.
    """
    if (world := _number("WORLD_SIZE", 1)) == 1:
        yield ALONE
        return
    ranks = _join(world)
    try:
        yield ranks
    except Exception as error:
        with contextlib.suppress(ValueError):  # torchrun ends the others of a failed process: say why before that
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # What the frames hold (models, groups) would keep the group's threads alive into the interpreter's end.
        traceback.clear_frames(error.__traceback__)
        cause = ranks.explain(error)
        if isinstance(cause, PeerFailed):
            raise SystemExit(cause.status) from None
        if not ranks.claim(cause):
            raise SystemExit(2 if isinstance(cause, UserError) else 1) from None
        if cause is error:
            raise
        raise cause from None
    finally:
        gc.collect()
        dist.destroy_process_group()


def _join(world: int) -> Ranks:
    rank = _number("RANK", None)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise UserError(f"WORLD_SIZE = {world}, but {name} is not set; start several processes with torchrun")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store, *_ = next(iter(dist.rendezvous("env://")))
        # torchrun's store outlives a restart (--max-restarts), and so would addresses of processes that are gone.
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise EnvironmentFault(f"{world} processes could not meet at {where}: {str(error).splitlines()[0]}") from None
    return Ranks(rank, world, _number("LOCAL_RANK", rank), control, store)


def _number(name: str, default: int | None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdigit():
        raise UserError(f"environment variable {name} = '{text}': expected a number, as torchrun sets it")
    return int(text)


# ---------------------------------------------------------------- shares of a batch

Span = tuple[int, int]  # first row, rows


def share_of(rows: int, together: int, ranks: Ranks, parts: int) -> tuple[Span, list[Span]]:
    """This process's rows of a batch, and the micro-batches (counted from its first row) to compute them in.

    `together` rows are never parted. Every process has as many micro-batches, `parts` or as many as the smallest
    share allows, because each is one exchange between them.
    """
    units = rows // together
    begin, end = ranks.rank * units // ranks.world, (ranks.rank + 1) * units // ranks.world
    count, own = min(parts, units // ranks.world), end - begin
    cuts = [together * (i * own // count) for i in range(count + 1)]
    spans = [(first, until - first) for first, until in pairwise(cuts)]
    return (together * begin, together * own), spans
