"""The values of an axis as a user writes them: `1,16,inf`, `range(5)`, `powers(2, 0, 20)`, `subsets(a, b, c)`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from inlearn.core.errors import UserError, unknown

_CALL = re.compile(r"([a-z]+)\((.*)\)", re.DOTALL)


def values(key: str, asked: Any) -> list[str]:
    """The values of axis `key`: a list of YAML values, or a text of values and functions parted by commas."""
    if isinstance(asked, str):
        found = [value for part in _split(key, asked) for value in _part(key, part)]
    elif isinstance(asked, Sequence):
        found = [text(value) for value in asked]
    else:
        found = [text(asked)]
    if not found:
        raise UserError(f"axis {key} has no values")
    if twice := next((value for value, times in Counter(found).items() if times > 1), None):
        raise UserError(f"axis {key} has {twice} twice")
    return found


def text(value: Any) -> str:
    """A YAML or JSON value as it is written after `key=`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _split(key: str, asked: str) -> list[str]:
    """`asked` cut at the commas that are inside no bracket and no quotation mark."""
    parts, depth, quoted, begin = [], 0, False, 0
    for place, sign in enumerate(asked):
        if sign == '"':
            quoted = not quoted
        elif not quoted:
            depth += (sign in "([{") - (sign in ")]}")
            if depth < 0:
                break
            if sign == "," and depth == 0:
                parts.append(asked[begin:place])
                begin = place + 1
    if depth or quoted:
        raise UserError(f"axis {key} = {asked}: brackets or quotation marks do not close")
    parts = [part.strip() for part in (*parts, asked[begin:])]
    if "" in parts:
        raise UserError(f"axis {key} = {asked}: an empty value between commas")
    return parts


def _part(key: str, part: str) -> list[str]:
    call = _CALL.fullmatch(part)
    if call is None:
        return [part]
    if call[1] not in FUNCTIONS:
        raise unknown("function", call[1], FUNCTIONS, f"{key} = ")
    arguments = _split(key, call[2]) if call[2].strip() else []
    try:
        return FUNCTIONS[call[1]](*arguments)
    except (TypeError, ValueError):
        raise UserError(f"axis {key} = {part}: expected {USAGE[call[1]]}") from None


def _range(*bounds: str) -> list[str]:
    return [str(i) for i in range(*map(int, bounds))]


def _powers(base: str, first: str, last: str) -> list[str]:
    if int(first) < 0:
        raise ValueError
    return [str(int(base) ** i) for i in range(int(first), int(last) + 1)]


def _steps(low: str, high: str, count: str, at: Callable[[float, float, float], float]) -> list[str]:
    a, b, n = float(low), float(high), int(count)
    if n < 2:
        raise ValueError
    # Twelve digits: 0.1 * 3 is written 0.3. The ends are the ones that were asked for.
    inner = [float(f"{at(a, b, i / (n - 1)):.12g}") for i in range(1, n - 1)]
    return [json.dumps(value) for value in (a, *inner, b)]


def _linspace(low: str, high: str, count: str) -> list[str]:
    return _steps(low, high, count, lambda a, b, f: a + (b - a) * f)


def _logspace(low: str, high: str, count: str) -> list[str]:
    if float(low) <= 0 or float(high) <= 0:
        raise ValueError
    return _steps(low, high, count, lambda a, b, f: a * (b / a) ** f)


def _subsets(*members: str) -> list[str]:
    if not members:
        raise ValueError
    plain: list[Any] = [_json_or_text(member) for member in members]
    return [json.dumps(chosen) for size in range(1, len(plain) + 1) for chosen in combinations(plain, size)]


def _json_or_text(member: str) -> Any:
    try:
        return json.loads(member)
    except ValueError:
        return member


FUNCTIONS: Mapping[str, Callable[..., list[str]]] = {
    "range": _range,
    "powers": _powers,
    "linspace": _linspace,
    "logspace": _logspace,
    "subsets": _subsets,
}
USAGE = {
    "range": "range(stop), range(start, stop) or range(start, stop, step), whole numbers",
    "powers": "powers(base, first, last): whole powers, both ends included",
    "linspace": "linspace(low, high, count): evenly spaced, both ends included",
    "logspace": "logspace(low, high, count): evenly spaced in the logarithm, both ends included, both positive",
    "subsets": "subsets(a, b, …): every subset but the empty one, each a list",
}
