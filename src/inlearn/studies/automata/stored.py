"""A finite set of rows: machines with a demonstration from each state and one query, of which a batch shows a choice.

Validation and test rows always show the same demonstrations; a training row shows others each time it comes round, as
published. Rows lie in memory in small integers, and in a file with the hash of the configuration that they were drawn
from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from inlearn.core import draws
from inlearn.core.batch import Batch
from inlearn.core.configuration import digest
from inlearn.core.draws import Address, Addresses
from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.core.files import machine_faults, write_bytes
from inlearn.core.spaces import Interface
from inlearn.studies.automata.config import CachedConfig, MachinesConfig
from inlearn.studies.automata.encoding import encode, query_places
from inlearn.studies.automata.episodes import Episodes
from inlearn.studies.automata.header import Header, read_header
from inlearn.studies.automata.machines import SPLITS, Split
from inlearn.studies.automata.tasks import Blocks, RowKeys, draw, in_blocks, in_random_order, row_numbers

GENERATION = 2
"""Raised when code changes which rows a configuration means: files that were written before are then refused."""

_CHUNK = 2048  # rows drawn at once
_LONG = ("demo_lengths", "query_lengths", "query_at")  # int32 in files and memory, all else int8


@dataclass(frozen=True)
class Pinned:
    """One seed for every stream."""

    eval: int

    def __getattr__(self, stream: str) -> int:
        return self.eval


def place_of(seed: int) -> Address:
    """Where cached rows of a seed are drawn, whatever the run."""
    return Address(Pinned(seed), "cached/data")


# ---------------------------------------------------------------- rows in memory and in files


def _small(episodes: Episodes) -> Episodes:
    kinds = {part.name: torch.int32 if part.name in _LONG else torch.int8 for part in fields(Episodes)}
    return Episodes(*(getattr(episodes, name).to(kind) for name, kind in kinds.items()))


def drawn(task: MachinesConfig, data: CachedConfig) -> tuple[Episodes, Header]:
    """The rows of training, validation and test, one after the other."""
    parts, counts = [], (data.train, data.validation, data.test)
    for split, count in zip(SPLITS, counts, strict=True):
        for first in range(0, count, _CHUNK):
            index = torch.arange(first, min(first + _CHUNK, count))
            parts.append(_small(draw(RowKeys(place_of(data.seed), split, index), task, every=True)))
    rows = Episodes(*(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(Episodes)))
    return rows, Header(counts, fingerprint(rows), made_of(task, data))


def made_of(task: MachinesConfig, data: CachedConfig) -> str:
    """The hash of all that decides which rows are drawn: not which are shown, nor what answers them."""
    machines = task.model_dump(mode="json", exclude={"demos", "head"})
    return digest({"generation": GENERATION, "task": machines, "data": data.model_dump(exclude={"folder"})})


def fingerprint(rows: Episodes) -> str:
    """sha256 of the numbers."""
    hashed = hashlib.sha256()
    for part in fields(Episodes):
        value = getattr(rows, part.name).contiguous()
        hashed.update(f"{part.name} {value.dtype} {tuple(value.shape)}\n".encode())
        hashed.update(value.numpy().tobytes())
    return hashed.hexdigest()


def write(path: Path, rows: Episodes, header: Header) -> None:
    from safetensors.torch import save

    tensors = {part.name: getattr(rows, part.name).contiguous() for part in fields(Episodes)}
    write_bytes(path, save(tensors, header.metadata))


def read(path: Path) -> tuple[Episodes, Header]:
    """Raises `UserError` for a file that is none of ours and `EnvironmentFault` for one that is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    header = read_header(path)
    try:
        with machine_faults(path):
            tensors = load(path.read_bytes())
        rows = Episodes(**tensors)
        whole = fingerprint(rows) == header.fingerprint
    except (SafetensorError, TypeError) as error:
        raise EnvironmentFault(f"{path} is damaged: {error}") from None
    if not whole or sum(header.splits) != len(rows.table):
        raise EnvironmentFault(f"{path} is damaged: its rows are not those whose fingerprint it has")
    return rows, header


def path_of(task: MachinesConfig, data: CachedConfig) -> Path:
    return Path(data.folder) / f"automata-{made_of(task, data)}.safetensors"


@lru_cache(maxsize=4)  # members of a stack share one
def cached(task: MachinesConfig, data: CachedConfig) -> tuple[Episodes, Header]:
    """The file that `prepare` wrote where there is one, else drawn in memory."""
    path = path_of(task, data)
    if not path.exists():
        return drawn(task, data)
    rows, header = read(path)
    if header.made_of != made_of(task, data):
        raise UserError(
            f"{path} holds rows of another configuration ({header.made_of}, not {made_of(task, data)}); remove it, or "
            "choose another data.folder"
        )
    return rows, header


@lru_cache(maxsize=4)
def imported(path: Path, fingerprint: str) -> tuple[Episodes, Header]:
    return read(path)


# ---------------------------------------------------------------- the task


@dataclass(frozen=True, eq=False)
class Finite:
    """Rows first..first+count-1 of `rows`. At stream `data` they come round once an epoch, elsewhere in their order.

    Epoch e is a random order addressed by e; training step t holds places t·batch .. (t+1)·batch - 1 of the epochs laid
    end to end. batch: rows of a whole step, none where the rows are never trained on.
    length: symbols of a row. split, place: where it is drawn which demonstrations a row shows if it is not trained on.
    """

    interface: Interface
    rows: Episodes
    split: Split
    first: int
    count: int
    demos: int
    length: int
    place: Address
    batch: int | None = None
    dense: bool = False
    free: bool = False
    labels: Mapping[str, Sequence[float | str]] = field(default_factory=dict)

    def sample(self, at: Address | Addresses, rows: int, first: int = 0) -> Batch:
        if at.stream == "data" and self.batch is not None:
            if in_blocks(at, rows * self.length):
                return self._blocks.sample(at, rows, first)
            return self._coming(at, rows, first, self._places_counted)
        if isinstance(at, Addresses) or (isinstance(at.step, Tensor) and at.step.dim()):
            raise ValueError("rows in their order are asked for one step at a time")
        number = row_numbers(at, rows, first)
        keys = RowKeys(self.place, self.split, number)["starts"]
        return encode(self.shown(number, keys), self.length, self.dense, self.free)

    def shown(self, index: Tensor, keys: Tensor) -> Episodes:
        """The episodes of rows `index` (..., N), each with as many of its demonstrations as a row shows."""
        stored = self._on(index.device)
        whole = {part.name: getattr(stored, part.name)[self.first + index].long() for part in fields(Episodes)}
        chosen = in_random_order(keys, whole["demo_lengths"].shape[-1])[..., : self.demos]
        for name in ("demo_states", "demo_actions"):
            steps = whole[name].shape[-1]
            whole[name] = whole[name].gather(-2, chosen[..., None].expand(*chosen.shape, steps))
        whole["demo_lengths"] = whole["demo_lengths"].gather(-1, chosen)
        return Episodes(**whole | {"query_at": query_places(whole["demo_lengths"])})

    def _coming(
        self, at: Address | Addresses, rows: int, first: int, order: Callable[[Address | Addresses, Tensor], Tensor]
    ) -> Batch:
        """Training steps; `order` says which rows stand at given places of the epochs laid end to end."""
        number = row_numbers(at, rows, first)
        step = at.step if isinstance(at.step, Tensor) else torch.tensor(at.step)
        index = order(at, step[..., None] * self.batch + number)
        keys = draws.each(at.key("demonstrations", device=number.device)[..., None], number)
        return encode(self.shown(index, keys), self.length, self.dense, marked=False)

    def _places_known(self, at: Address | Addresses, place: Tensor) -> Tensor:
        """Where numbers may be looked at: an epoch is ordered once."""
        epochs = range(int(place.min()) // self.count, int(place.max()) // self.count + 1)
        orders = [self._order(replace(at, step=epoch).key("order").item()) for epoch in epochs]
        return torch.cat(orders)[place - epochs[0] * self.count]

    def _places_counted(self, at: Address | Addresses, place: Tensor) -> Tensor:
        """Where they may not: a step orders the epochs that it may reach into."""
        if isinstance(at.step, int):
            return self._places_known(at, place)
        epoch = place[..., 0] // self.count
        spanned = 1 if self.count % self.batch == 0 else 2 + (self.batch - 2) // self.count
        orders = [
            draws.permutation(replace(at, step=epoch + turn).key("order", device=place.device), self.count)
            for turn in range(spanned)
        ]
        return torch.cat(orders, -1).gather(-1, place - epoch[..., None] * self.count)

    @cached_property
    def _blocks(self) -> Blocks:
        return Blocks(lambda at, rows, first: self._coming(at, rows, first, self._places_known))

    @cached_property
    def _order(self) -> Callable[[int], Tensor]:
        """An epoch's order by its key; the last two are kept, because an epoch has many steps."""
        return lru_cache(maxsize=2)(lambda key: draws.permutation(torch.tensor(key), self.count))

    def _on(self, device: torch.device) -> Episodes:
        if device not in self._copies:
            self._copies[device] = self.rows.to(device)
        return self._copies[device]

    @cached_property
    def _copies(self) -> dict[torch.device, Episodes]:
        return {self.rows.table.device: self.rows}

    @classmethod
    def combined(cls, tasks: Sequence[Finite]) -> Finite | None:
        """Of tasks on the same rows in memory that differ in nothing: see `Machines.combined`."""
        names = [each.name for each in fields(cls) if each.name != "rows"]
        alike = all(getattr(task, name) == getattr(tasks[0], name) for task in tasks for name in names)
        return tasks[0] if alike and all(task.rows is tasks[0].rows for task in tasks) else None
