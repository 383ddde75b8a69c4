"""The published files: a list of dictionaries of plain integers, as `torch.save` wrote it.

    {"fsm": {state: {action: next state}}, "demos": [{"states": […], "actions": […]}, …], "query": one such walk}

Nothing of it is believed: it is loaded with weights_only, within limits of size, and read entry by entry; what is no
such list, or does not follow its own machine, is refused with the place.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inlearn.core.errors import UserError
from inlearn.studies.automata import stored
from inlearn.studies.automata.config import LONGEST_WALK, MAX_ACTIONS, MAX_STATES
from inlearn.studies.automata.encoding import query_places
from inlearn.studies.automata.episodes import Episodes
from inlearn.studies.automata.header import Header

LARGEST = 1 << 30  # bytes of a file, and of what it unpacks to
MOST_ROWS = 1 << 20
HIGHEST = 1 << 10  # numbers that stand for states and actions


def convert(source: Path, out: Path, say: Callable[[str], None]) -> None:
    """Rows of the published file as `out`; states and actions are numbered afresh, in their order."""
    if out.exists():
        raise UserError(f"--out {out} exists already; expected a new file")
    rows, names = parsed(loaded(source), str(source))
    count = len(rows.table)
    train, validation = int(0.6 * count), int(0.2 * count)
    header = Header((train, validation, count - train - validation), stored.fingerprint(rows))
    if min(header.splits) < 1:
        raise UserError(f"{source} has {count} rows; expected at least 5, of which 60 % are trained on")
    stored.write(out, rows, header)
    states, actions = rows.table.shape[-2:]
    counts = " + ".join(f"{each:,}" for each in header.splits)
    say(f"{out}: {counts} rows for training, validation and test; {states} states, {actions} actions ({names})")
    shared = _shared(rows.table, header.splits)
    if shared:
        say(f"{shared:,} of its {header.splits[2]:,} test rows have a machine that training rows have too")


def loaded(source: Path) -> Any:
    """What `torch.save` put there, if it is nothing but plain values."""
    refusal = f"{source} is no list of dictionaries that torch.save wrote"
    if not source.is_file():
        raise UserError(f"{source}: no such file")
    size = source.stat().st_size
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as parts:
                size = max(size, sum(part.file_size for part in parts.infolist()))
    except zipfile.BadZipFile as error:
        raise UserError(f"{refusal}: {error}") from None
    if size > LARGEST:
        raise UserError(f"{source} has {size:,} bytes unpacked; expected at most {LARGEST:,}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on files that it cannot read either
            return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that anyone may have written leads to
        reason = str(error).strip().splitlines()
        raise UserError(f"{refusal}: {reason[0] if reason else type(error).__name__}") from None


def parsed(content: Any, where: str) -> tuple[Episodes, str]:
    """The rows, and how states and actions were named. Raises `UserError` at the first thing that is amiss."""
    if type(content) is not list or not 0 < len(content) <= MOST_ROWS:
        raise UserError(f"{where}: expected a list of 1 to {MOST_ROWS:,} dictionaries, found {_told(content)}")
    steps = 0  # a small file may hold one walk and name it a million times
    for number, entry in enumerate(content):
        _check_entry(entry, f"{where}, entry {number}", len(content[0]["demos"]) if number else None)
        walks = (*entry["demos"], entry["query"])
        steps = max(steps, *(len(walk["actions"]) for walk in walks))
        if (numbers := 2 * steps * len(walks) * len(content)) > LARGEST:
            raise UserError(f"{where}: its walks have {numbers:,} numbers as tensors; expected at most {LARGEST:,}")
    states = sorted(content[0]["fsm"])
    actions = sorted({action for entry in content for row in entry["fsm"].values() for action in row})
    for number, entry in enumerate(content):
        if sorted(entry["fsm"]) != states:
            raise UserError(f"{where}, entry {number}: states {sorted(entry['fsm'])}; expected {states}, as in entry 0")
    if len(states) > MAX_STATES or len(states) < 2 or len(actions) > MAX_ACTIONS:
        raise UserError(
            f"{where}: machines of {len(states)} states and {len(actions)} actions; expected 2 to {MAX_STATES} and at "
            f"most {MAX_ACTIONS}"
        )
    if set(states) & set(actions):
        raise UserError(f"{where}: {sorted(set(states) & set(actions))} name both states and actions")
    return _rows(content, states, actions), f"states {states}, actions {actions} in the file"


def _check_entry(entry: Any, where: str, demos: int | None) -> None:
    if type(entry) is not dict or set(entry) != {"fsm", "demos", "query"}:
        raise UserError(f"{where}: expected a dictionary of fsm, demos and query, found {_told(entry)}")
    machine = entry["fsm"]
    if type(machine) is not dict or not all(type(row) is dict and row for row in machine.values()):
        raise UserError(f"{where}: fsm should say {{state: {{action: next state}}}}, found {_told(machine)}")
    for number in (each for state, row in machine.items() for each in (state, *row, *row.values())):
        if type(number) is not int or not 0 <= number < HIGHEST:
            raise UserError(f"{where}: fsm has {_told(number)}; expected integers from 0 to {HIGHEST - 1}")
    if beyond := {there for row in machine.values() for there in row.values()} - set(machine):
        raise UserError(f"{where}: fsm leads to {min(beyond)}, which is none of its states")
    shown = entry["demos"]
    if type(shown) is not list or not shown or len(shown) > HIGHEST or (demos is not None and len(shown) != demos):
        wanted = "a list of walks" if demos is None else f"a list of {demos} walks, as in entry 0"
        raise UserError(f"{where}: demos should be {wanted}, found {_told(shown)}")
    for number, walk in enumerate(shown):
        _check_walk(walk, machine, f"{where}, demo {number}")
    _check_walk(entry["query"], machine, f"{where}, query")


def _check_walk(walk: Any, machine: Mapping[int, Mapping[int, int]], where: str) -> None:
    if type(walk) is not dict or set(walk) != {"states", "actions"}:
        raise UserError(f"{where}: expected a dictionary of states and actions, found {_told(walk)}")
    states, actions = walk["states"], walk["actions"]
    for name, values in walk.items():
        if type(values) is not list or any(type(value) is not int for value in values):
            raise UserError(f"{where}: {name} should be a list of integers, found {_told(values)}")
    if len(states) != len(actions) + 1 or not 0 < len(actions) <= LONGEST_WALK:
        raise UserError(
            f"{where}: {len(states)} states and {len(actions)} actions; expected one state more than actions, and 1 to "
            f"{LONGEST_WALK:,} of these"
        )
    for step, action in enumerate(actions):
        if machine.get(states[step], {}).get(action) != states[step + 1]:
            raise UserError(
                f"{where}, step {step}: action {action} leads from {states[step]} to {states[step + 1]}, which its fsm "
                "does not say"
            )


def _told(value: Any) -> str:
    """What something is, in a few words."""
    if type(value) is dict:
        return f"a dictionary of {', '.join(str(key)[:20] for key in list(value)[:5])}"
    text = f"{type(value).__name__}" + (f" of {len(value)}" if type(value) is list else "")
    return f"{text} {value}" if type(value) is int and abs(value) < 1 << 64 else text


def _rows(content: Sequence[Any], states: Sequence[int], actions: Sequence[int]) -> Episodes:
    state, action = ({name: number for number, name in enumerate(names)} for names in (states, actions))
    table = [
        [[state[row[name]] if name in row else -1 for name in actions] for row in (entry["fsm"][s] for s in states)]
        for entry in content
    ]
    shown = [walk for entry in content for walk in entry["demos"]]
    asked = [entry["query"] for entry in content]
    count, demos = len(content), len(content[0]["demos"])
    demo_states, demo_actions, demo_lengths = _walks(shown, state, action)
    query_states, query_actions, query_lengths = _walks(asked, state, action)
    lengths = demo_lengths.view(count, demos)
    return Episodes(
        torch.tensor(table, dtype=torch.int8),
        demo_states.view(count, demos, -1),
        demo_actions.view(count, demos, -1),
        lengths,
        query_states,
        query_actions,
        query_lengths,
        query_places(lengths.long()).to(torch.int32),
        torch.arange(len(states), dtype=torch.int8).expand(count, -1),
        MAX_STATES + torch.arange(len(actions), dtype=torch.int8).expand(count, -1),
    )


def _walks(walks: Sequence[Any], state: Mapping[int, int], action: Mapping[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """States (W, L+1), actions (W, L) and lengths (W,), zeros beyond them."""
    lengths = torch.tensor([len(walk["actions"]) for walk in walks], dtype=torch.int32)
    longest = int(lengths.max())
    states = torch.zeros(len(walks), longest + 1, dtype=torch.int8)
    actions = torch.zeros(len(walks), longest, dtype=torch.int8)
    for number, walk in enumerate(walks):
        own = len(walk["actions"])
        states[number, : own + 1] = torch.tensor([state[name] for name in walk["states"]], dtype=torch.int8)
        actions[number, :own] = torch.tensor([action[name] for name in walk["actions"]], dtype=torch.int8)
    return states, actions, lengths


def _shared(table: Tensor, splits: tuple[int, int, int]) -> int:
    """How many test rows have a machine that training rows have too."""
    names = [bytes(row) for row in table.flatten(1).numpy()]
    trained = set(names[: splits[0]])
    return sum(name in trained for name in names[splits[0] + splits[1] :])
