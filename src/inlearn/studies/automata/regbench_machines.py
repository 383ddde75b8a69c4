"""Random DFAs, all of whose nodes accept; their minimal forms; and the split that each belongs to.

Shapes: N machines of at most S nodes with at most E edges each. Any leading shape may stand in front of N. A run of a
machine starts in node 0 and ends where no edge has the letter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from inlearn.core import draws
from inlearn.core.draws import Address, Addresses
from inlearn.core.errors import UserError
from inlearn.studies.automata.regbench_config import LETTERS, RegBenchConfig

Words = Callable[[str, int], Tensor]
"""(..., N, width) words of 64 random bits for a draw's name and width."""

Split = Literal["train", "validation", "test"]
BUCKETS: dict[str, range] = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}
DEPTH = 6  # letters that decide the bucket
TRIES = 16
ROUNDS = 256
BLOCK = 1024


@dataclass(frozen=True)
class DFAs:
    """Machines as lists of edges. An edge that is not there has letter LETTERS and target 0."""

    nodes: Tensor  # (N,) how many nodes there are
    letters: Tensor  # (N, S, E)
    targets: Tensor  # (N, S, E)

    @property
    def degrees(self) -> Tensor:
        """(N, S) edges of each node; they stand first."""
        return (self.letters < LETTERS).sum(-1)

    @property
    def legal(self) -> Tensor:
        """(N, S) the letters that may follow, as a sum of powers of two."""
        return torch.where(self.letters < LETTERS, 1 << self.letters, 0).sum(-1)

    def to(self, device: torch.device | str) -> DFAs:
        return DFAs(self.nodes.to(device), self.letters.to(device), self.targets.to(device))

    def __getitem__(self, index: Tensor | slice) -> DFAs:
        """Some of the N machines, where no shape stands in front."""
        return DFAs(self.nodes[index], self.letters[index], self.targets[index])


# ---------------------------------------------------------------- draws


@dataclass(frozen=True)
class Rows:
    """Rows by number (N,) at an address, and the split that they are of: what is drawn for a row depends on these."""

    at: Address | Addresses
    split: Split
    numbers: Tensor

    @classmethod
    def following(cls, at: Address | Addresses, split: Split, rows: int, first: int = 0) -> Rows:
        """Rows first..first+rows-1."""
        device = at.step.device if isinstance(at.step, Tensor) else torch.device("cpu")
        return cls(at, split, places(first + rows, device)[first:])

    def words(self, name: str, width: int) -> Tensor:
        """(..., N, width) words of 64 random bits."""
        key = self.at.key(self.split, name, device=self.numbers.device)
        return draws.bits(draws.each(key[..., None], self.numbers), 1, width).squeeze(-2)


def below(words: Tensor, high: int | Tensor) -> Tensor:
    """Integers in [0, high), by multiply and shift (bias below high / 2^32)."""
    return (((words >> 32) & 0xFFFFFFFF) * high) >> 32


def between(words: Tensor, bounds: tuple[int, int]) -> Tensor:
    """Integers from the first of `bounds` to the last, both among them."""
    return bounds[0] + below(words, bounds[1] - bounds[0] + 1)


def distinct(words: Tensor, high: Tensor) -> Tensor:
    """(..., E) E of the numbers below `high` (..., 1) without repetition, in uniformly random order.

    Word i is a rank among the numbers that the i before it left over; from the last to the first, each rank is counted
    past those before it.
    """
    count = words.shape[-1]
    found = below(words, high - places(count, words.device))
    for i in range(count - 2, -1, -1):
        later = found[..., i + 1 :]
        later += later >= found[..., i : i + 1]
    return found


def draw_dfas(words: Words, law: RegBenchConfig) -> DFAs:
    """Machines of the published distribution, before minimisation."""
    most, edges = law.nodes[1], law.edges[1]
    nodes, size = between(words("nodes", 1), law.nodes), between(words("size", 1), law.letters)
    alphabet = words("alphabet", LETTERS).argsort(dim=-1, stable=True)  # its first `size` letters
    degrees = between(words("degrees", most), law.edges)
    ranks = distinct(words("letters", most * edges).unflatten(-1, (most, edges)), size[..., None])
    letters = alphabet[..., None, :].expand(*ranks.shape[:-1], LETTERS).gather(-1, ranks)
    targets = distinct(words("targets", most * edges).unflatten(-1, (most, edges)), nodes[..., None] - 1)
    targets += targets >= places(most, targets.device)[:, None]  # no node leads to itself
    there = places(edges, targets.device) < degrees[..., None]
    return DFAs(nodes.squeeze(-1), letters.where(there, LETTERS), targets * there)


def draw_of_split(rows: Rows, law: RegBenchConfig) -> tuple[DFAs, Tensor]:
    """Machines of the rows, each the first of its tries that belongs to their split, and whether (..., N) there is one.

    At a step counted on a device nobody can look whether more tries are needed: there TRIES are all (of ten machines
    eight are for training, so one row in 10^11 finds none). Raises `UserError` where the law has none of the split.
    """
    found: tuple[DFAs, Tensor] | None = None
    for number in range(ROUNDS):
        mine = _tried(rows, number, law)
        found = mine if found is None else _filled(found, mine)
        if isinstance(rows.at.step, Tensor) or bool(found[1].all()):
            return found
    raise UserError(
        f"task.nodes = {list(law.nodes)}, task.letters = {list(law.letters)}, task.edges = {list(law.edges)}: of "
        f"{ROUNDS * TRIES:,} DFAs none is of split {rows.split}; expected a law of more DFAs, since splits share none"
    )


def _tried(rows: Rows, number: int, law: RegBenchConfig) -> tuple[DFAs, Tensor]:
    def words(name: str, width: int) -> Tensor:
        return rows.words(f"dfa {number} {name}", TRIES * width).unflatten(-1, (TRIES, width))

    tried = draw_dfas(words, law)
    turn = places(TRIES, tried.nodes.device)
    chosen = turn.where(belongs(tried, rows.split), TRIES).amin(-1)
    found, index = chosen < TRIES, chosen.clamp(max=TRIES - 1)[..., None]
    edges = index[..., None, None].expand(*index.shape, *tried.letters.shape[-2:])
    parts = (tried.letters.gather(-3, edges).squeeze(-3), tried.targets.gather(-3, edges).squeeze(-3))
    return DFAs(tried.nodes.gather(-1, index).squeeze(-1), *parts), found


def _filled(found: tuple[DFAs, Tensor], later: tuple[DFAs, Tensor]) -> tuple[DFAs, Tensor]:
    """`later` where nothing was found before."""
    (old, there), (new, more) = found, later
    wide = there[..., None, None]
    edges = (old.letters.where(wide, new.letters), old.targets.where(wide, new.targets))
    return DFAs(old.nodes.where(there, new.nodes), *edges), there | more


def training_dfas(place: Address, count: int, law: RegBenchConfig) -> DFAs:
    """`count` machines of split "train", no two with the same language; fewer are the beginning of more.

    Candidate i is a function of (place, i). Raises `UserError` where the law has not so many.
    """
    kept, known = [], set()
    for first in range(0, BLOCK * (64 + 4 * count // BLOCK), BLOCK):
        drawn = draw_dfas(Rows.following(place, "train", BLOCK, first).words, law)
        drawn = drawn[belongs(drawn, "train")]
        new = []
        for number, identity in enumerate(identities(drawn)):
            if identity not in known:
                known.add(identity)
                new.append(number)
        kept.append(drawn[torch.tensor(new, dtype=torch.int64)])
        if len(known) >= count:
            parts = ([getattr(each, name) for each in kept] for name in ("nodes", "letters", "targets"))
            return DFAs(*map(torch.cat, parts))[:count]
    raise UserError(
        f"data.train = {count:,}, but task.nodes = {list(law.nodes)}, task.letters = {list(law.letters)} and "
        f"task.edges = {list(law.edges)} gave {len(known):,} different training DFAs; expected at most so many"
    )


# ---------------------------------------------------------------- which machine it is


def belongs(dfas: DFAs, split: Split) -> Tensor:
    """(N,) whether each machine is of `split`. What decides is the words of at most DEPTH letters that it accepts, so
    machines of different splits differ within so many letters."""
    degrees, flat = dfas.degrees, dfas.targets.flatten(-2)
    state = torch.zeros_like(degrees)
    for _ in range(DEPTH):
        # Once round for every letter of depth: nodes get one number if and only if they accept the same such words
        # (but for coincidences of 64 bits, which would only put two machines into one split).
        after = draws.each(state.gather(-1, flat).unflatten(-1, dfas.targets.shape[-2:]), dfas.letters)
        state = draws.each(torch.where(dfas.letters < LETTERS, after, 0).sum(-1), degrees)
    bucket = (state[..., 0] & 0xFFFFFFFF) % 10
    return (bucket >= BUCKETS[split].start) & (bucket < BUCKETS[split].stop)


def minimal(dfas: DFAs) -> DFAs:
    """The smallest machines (N, S, E) of the same languages, without nodes that cannot be reached.

    Nodes are numbered as a breadth-first walk from the start meets them, edges stand in the order of their letters: so
    two machines have the same language if and only if these forms are equal.
    """
    letters, order = dfas.letters.sort(-1)
    targets = (
        _representatives(dfas).gather(-1, dfas.targets.gather(-1, order).flatten(-2)).unflatten(-1, letters.shape[-2:])
    )
    targets = targets * (letters < LETTERS)
    number, visited, count = _breadth_first(letters, targets)
    kept = (places(letters.shape[-2], letters.device) < count[:, None])[..., None]
    wide = visited[..., None].expand_as(letters)
    letters, targets = letters.gather(1, wide).where(kept, LETTERS), targets.gather(1, wide)
    targets = number.gather(1, targets.flatten(1)).view_as(targets) * (letters < LETTERS)
    return DFAs(count, letters, targets)


def identities(dfas: DFAs) -> list[bytes]:
    """One name for each of N machines: equal where the languages are."""
    form = minimal(dfas)
    return [row.tobytes() for row in torch.cat((form.letters, form.targets), -1).to(torch.uint8).flatten(1).numpy()]


def _representatives(dfas: DFAs) -> Tensor:
    """(N, S) the lowest node that accepts the same words. Pairs are told apart by one letter, then by where it leads
    to, until nothing changes (Moore 1956)."""
    shape = dfas.letters.shape
    # The target of every letter, -1 where there is none; a last column for edges that are not there.
    after = torch.full((*shape[:2], LETTERS + 1), -1, device=dfas.letters.device)
    after.scatter_(-1, dfas.letters, dfas.targets)[..., LETTERS] = -1
    defined = after >= 0
    differ = (defined[:, :, None] != defined[:, None]).any(-1)
    letter = dfas.letters[:, :, None].expand(-1, -1, shape[1], -1)  # (N, S, S, E): an edge of p, and what q does
    other = after[:, None].expand(-1, shape[1], -1, -1).gather(-1, letter)
    pair = dfas.targets[:, :, None] * shape[1] + other.clamp(min=0)
    for _ in range(shape[1]):
        told = differ.flatten(1).gather(1, pair.flatten(1)).view_as(pair) & (other >= 0)
        further = differ | told.any(-1)
        if torch.equal(further, differ):
            break
        differ = further
    return places(shape[1], differ.device).where(~differ, shape[1]).amin(-1)


def _breadth_first(letters: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, S) the number at which each node is met (what is never met has no meaning), (N, S) the node that each number
    is, and (N,) how many are met. The walk starts at node 0, which stands for all that are equal to it."""
    rows, nodes, edges = letters.shape
    number = torch.full((rows, nodes), -1, device=letters.device)
    number[:, 0] = 0
    visited = torch.zeros(rows, nodes + 1, dtype=torch.int64, device=letters.device)  # a last column for what is old
    count = torch.ones(rows, dtype=torch.int64, device=letters.device)
    for i in range(nodes):
        here = visited[:, i : i + 1]
        for e in range(edges):
            letter, target = (x[..., e].gather(1, here) for x in (letters, targets))
            known = number.gather(1, target)
            new = (known < 0) & (letter < LETTERS) & (i < count)[:, None]
            number.scatter_(1, target, torch.where(new, count[:, None], known))
            visited.scatter_(1, torch.where(new, count[:, None], nodes), target)
            count = count + new.squeeze(1)
    return number.clamp(min=0), visited[:, :nodes], count


@lru_cache(maxsize=64)  # kept on the device: a CUDA graph may copy nothing from the host
def places(count: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.arange(count, device=device)
