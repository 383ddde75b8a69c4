"""Which runs of a sweep are trained together: one rule for each kind of device, and the line that says what was chosen.

A stack pays where a model is too small to fill the machine: on a CPU below STACKS_PAY, on a GPU as far as memory
goes. Runs that have begun keep their form, alone or in a stack; a stack's members may be others than before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.config import RunBase, compose
from inlearn.lab.signature import STACKS_PAY, alone, first_difference, signature
from inlearn.sweeps.engines.config import EngineConfig, Places
from inlearn.sweeps.engines.machine import free_memory
from inlearn.sweeps.planned import PlannedRun
from inlearn.sweeps.standing import begun_alone, standings

if TYPE_CHECKING:
    from inlearn.lab.footprint import Footprint

MOST, ENOUGH = 64, 2e8  # members of a stack and their work together: more gains nothing, then loses (MEASURED)
MEASURED = "benchmarks/results/stacks.json"
SHARE = 0.8  # of free memory: what members take is an estimate


@dataclass(frozen=True)
class Choice:
    """`groups`: runs that one process is to carry out together, or one run; `sentence`: what was chosen, and why."""

    groups: list[list[PlannedRun]]
    sentence: str


@dataclass(frozen=True)
class _Stacks:
    """The runs of one signature, cut into stacks of nearly equal size, or why they are not."""

    groups: list[list[PlannedRun]]
    why_not: str = ""
    footprint: Footprint | None = None
    kind: str = ""  # of the device


class Stacking:
    """The choice for one plan and engine. What it learns of the plan's runs it keeps, as rounds are repeated."""

    def __init__(self, study: str, root: Path, config: EngineConfig) -> None:
        self.found, self.root, self.config = discovery.study(study), root, config
        self._signatures: dict[str, tuple[str | None, str | None]] = {}
        self._examples: dict[str, RunBase] = {}  # one configuration of each signature
        self._footprints: dict[str, Footprint] = {}

    @cached_property
    def places(self) -> Places:
        return self.config.places()

    def check(self, every: Sequence[PlannedRun]) -> None:
        """`UserError` where engine.stack asks for stacks of a plan in which no two runs can be trained together."""
        if not isinstance(self.config.stack, int) or len(every) < 2:
            return
        found = [self._signature(run) for run in every]
        if max(Counter(sign for sign, _ in found if sign).values(), default=0) > 1:
            return
        why = next((reason for _, reason in found if reason), None)
        if len(self._examples) > 1:
            key, one, other = first_difference(*list(self._examples.values())[:2])
            why = f"{key} = {one} and {key} = {other} are models, batches or schedules of different shapes"
        raise UserError(
            f"engine.stack = {self.config.stack}: no two of the {len(every):,} runs can be trained together: {why}"
        )

    def choose(self, runs: Sequence[PlannedRun], lost: Mapping[str, int] | None = None) -> Choice:
        """Groups of `runs`, in their order. `lost`: how often each lost its worker; a stack that lost it is halved.

        Raises `UserError` where engine.stack is more than memory holds.
        """
        if len(runs) < 2 or (why := self._never(len(runs))):
            told = f"{_runs(len(runs))} one by one: {why}" if len(runs) > 1 else ""
            return Choice([[run] for run in runs], told)
        ways = {standing.run.id: standing for standing in standings(self.root, runs)}
        whys: dict[str, str] = {}
        alike: dict[str, list[PlannedRun]] = {}
        for run in sorted(runs, key=lambda run: -ways[run.id].step):  # neighbours in a stack are equally far
            sign, why = self._signature(run)
            if ways[run.id].state != "planned" and begun_alone(self.root / run.id):
                whys[run.id] = "begun so"
            elif sign is None:
                whys[run.id] = why
            else:
                alike.setdefault(sign, []).append(run)
        stacked: list[_Stacks] = []
        for sign, members in alike.items():
            stacks = self._stacks(sign, members, max((lost or {}).get(run.id, 0) for run in members))
            stacked += [stacks] if stacks.groups else []
            together = {run.id for group in stacks.groups for run in group}
            whys |= {run.id: stacks.why_not or "left over" for run in members if run.id not in together}
        place = {run.id: number for number, run in enumerate(runs)}
        groups = [group for stacks in stacked for group in stacks.groups] + [[run] for run in runs if run.id in whys]
        groups.sort(key=lambda group: min(place[run.id] for run in group))
        return Choice(groups, self._sentence(len(runs), stacked, Counter(whys.values())))

    # ------------------------------------------------------------ the rule

    def _never(self, runs: int) -> str | None:
        """Why nothing is stacked, whatever the runs."""
        if self.config.stack == "none":
            return "engine.stack=none"
        if self.config.stack != "auto":
            return None
        if self.config.stop_on_failure:
            return "engine.stop_on_failure=true waits for the end of each"
        if self.places.count is None:
            known = {"slurm": "engine.jobs=… or engine.parallel=…", "ray": "engine.workers=…"}[self.config.kind]
            return f"how many go on at once is not known ({known} says it, engine.stack=… makes stacks without it)"
        return None if runs > self.places.count else f"no more of them than places for them ({self.places.count})"

    def _stacks(self, sign: str, members: Sequence[PlannedRun], lost: int) -> _Stacks:
        count, asked = len(members), self.config.stack
        if count == 1:
            return _Stacks([], "no other run has their shape")
        if asked == "auto" and count <= self.places.count:
            return _Stacks([], f"no more of a shape than places for them ({self.places.count})")
        cost, kind = self._footprint(sign), self._kind(sign)
        fit = self._fit(sign)
        if asked != "auto":
            if fit is not None and min(asked, count) > fit:
                instead = "auto splits them by itself" if fit > 1 else "none trains them one by one"
                raise UserError(f"engine.stack = {asked}: {_fitting(fit, cost, kind)}; engine.stack={instead}")
            return _Stacks(_cut(members, ceil(count / max(1, asked >> lost))), "", cost, kind)
        if kind not in ("cpu", "cuda"):
            return _Stacks([], f"stacks were never tried on {kind}")
        if kind == "cpu" and cost.work >= STACKS_PAY:
            return _Stacks([], f"{_work(cost)}, not below {_power(STACKS_PAY)} ({MEASURED})")
        enough = max(2, min(MOST, int(ENOUGH / cost.work))) if kind == "cpu" else count
        most = min(enough, count if fit is None else fit) >> lost
        if most < 2:
            why = "their stack lost its worker again and again" if lost else _fitting(fit or 0, cost, kind)
            return _Stacks([], why)
        places = self.places.count
        return _Stacks(_cut(members, places * ceil(count / (places * most))), "", cost, kind)

    def _fit(self, sign: str) -> int | None:
        """How many members the memory of one place holds; None where nobody knows."""
        memory = self.places.memory
        if self._kind(sign) != self.places.device:  # the runs name another device than the engine would choose
            free = free_memory(self._kind(sign))
            memory = None if free is None else free // (self.places.count or 1)
        return None if memory is None else int(SHARE * memory / self._footprint(sign).bytes)

    # ------------------------------------------------------------ what the runs are

    def _signature(self, run: PlannedRun) -> tuple[str | None, str | None]:
        """What runs of one shape share, or why this run is always alone."""
        if run.id not in self._signatures:
            config = compose(self.found, run.overrides)
            sign = signature(config)
            self._signatures[run.id] = (sign, alone(config))
            if sign is not None:
                self._examples.setdefault(sign, config)
        return self._signatures[run.id]

    def _footprint(self, sign: str) -> Footprint:
        if sign not in self._footprints:
            from inlearn.lab.footprint import footprint  # torch: only where runs might be stacked

            self._footprints[sign] = footprint(self._examples[sign])
        return self._footprints[sign]

    def _kind(self, sign: str) -> str:
        asked = self._examples[sign].execution.device.partition(":")[0]
        return self.places.device if asked == "auto" else asked

    # ------------------------------------------------------------ the line

    def _sentence(self, count: int, stacked: Sequence[_Stacks], singles: Counter[str]) -> str:
        apart = [f"{number:,} one by one: {why}" for why, number in singles.items()]
        if not stacked:
            return f"{_runs(count)}{', ' if len(apart) > 1 else ' '}" + "; ".join(apart).removeprefix(f"{count:,} ")
        sizes = [len(group) for stacks in stacked for group in stacks.groups]
        between = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
        stacks = f"{_runs(sum(sizes))} in {len(sizes):,} stack{'s' * (len(sizes) > 1)} of {between}"
        return "; ".join([f"{stacks}: {self._why(stacked)}", *apart])

    def _why(self, stacked: Sequence[_Stacks]) -> str:
        if self.config.stack != "auto":
            return f"engine.stack={self.config.stack}"
        largest = max((stacks.footprint for stacks in stacked), key=lambda cost: cost.work)
        most = "at most " if len(stacked) > 1 else ""
        if stacked[0].kind == "cuda":  # all runs of a plan ask for the same device
            return f"on a GPU as many as its memory holds; {most}{_work(largest)}"
        return f"{most}{_work(largest)}, below {_power(STACKS_PAY)} ({MEASURED})"


def _cut(runs: Sequence[PlannedRun], parts: int) -> list[list[PlannedRun]]:
    """Neighbours together, in `parts` groups of nearly equal size; a group of one is no stack, and is left out."""
    least, more = divmod(len(runs), parts)
    ends = [number * least + min(number, more) for number in range(parts + 1)]
    groups = [list(runs[start:end]) for start, end in pairwise(ends)]
    return [group for group in groups if len(group) > 1]


def _fitting(fit: int, cost: Footprint, kind: str) -> str:
    what = "a card's memory" if kind == "cuda" else "the memory of one worker"
    size = f"{cost.bytes / 1e9:,.1f} GB" if cost.bytes >= 1e9 else f"{cost.bytes / 1e6:.1f} MB"
    return f"{fit:,} of about {size} each fit into {what}"


def _work(cost: Footprint) -> str:
    return f"{cost.parameters:,} parameters × {cost.tokens:,} tokens = {_power(cost.work)} a step"


def _power(number: float) -> str:
    """1.0e6, 5e7."""
    mantissa, _, exponent = f"{number:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0') if number == STACKS_PAY else mantissa}e{int(exponent)}"


def _runs(count: int) -> str:
    return f"{count:,} run{'s' * (count != 1)}"
