"""How a training step's time and memory grow with width, length, batch, layers, and the members of a stack.

    python benchmarks/scaling.py

Each configuration has a process of its own: least milliseconds of a step over rounds of up to sixteen, and the peak of
resident memory (on a GPU: of allocated memory) beyond what the process held before its first step. The exponent is the
slope of log against log, over the whole curve and between its two largest sizes. Writes
benchmarks/results/scaling.json, scaling-time.svg and scaling-memory.svg.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measuring import RESULTS, print_table, store

SECONDS = 2.0
NEAR_LINEAR = (0.85, 1.15)  # exponents at the large end


@dataclass(frozen=True)
class Configuration:
    """One point of a curve: `size` along `axis`, and what to ask of `study`; `members=n` makes a stack of n."""

    axis: str
    size: int
    study: str
    overrides: tuple[str, ...]


def along(axis: str, key: str, sizes: Sequence[int], *overrides: str) -> list[Configuration]:
    words = ("preset=paper-lr", *overrides)
    return [Configuration(axis, size, "regression", (*words, f"{key}={size}")) for size in sizes]


# Another axis is another list of configurations.
CURVES = [
    *along("width", "model.width", (32, 64, 128, 256, 512), "training.batch=64"),
    *along("examples", "task.examples", (8, 16, 32, 64, 128, 256), "training.batch=16"),
    *along("batch", "training.batch", (16, 64, 256, 1024, 4096)),
    *along("layers", "model.layers", (1, 2, 4, 8, 16), "training.batch=64"),
    *along("members", "members", (1, 2, 4, 8, 16, 32, 64), "model.width=16", "training.batch=8"),
]

STEEPER = {  # what the arithmetic says; a curve that is steep for no such reason is told as not explained
    ("width", "ms"): "products grow with the square of the width, everything else with the width",
    ("width", "MiB"): "weights, gradients and moments grow with the square of the width, activations with the width",
    ("examples", "ms"): "attention grows with the square of the length, everything else with the length",
    ("examples", "MiB"): "attention's scores grow with the square of the length, up to the length from which the fused "
    "kernel, which keeps none, is used",
}


def measure(configurations: Sequence[Configuration]) -> list[dict[str, Any]]:
    """{axis, size, overrides, parameters, ms, MiB} of each configuration, one after the other."""
    found = []
    for one in configurations:
        words = [sys.executable, __file__, "point", one.study, *one.overrides]
        told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        found.append({**asdict(one), **json.loads(told)})
    return found


def point(study: str, *overrides: str) -> dict[str, float]:
    """One configuration, in this process."""
    import torch

    from inlearn.lab import discovery
    from inlearn.lab.build import build, build_member, build_trainer
    from inlearn.lab.config import compose
    from inlearn.lab.roofline import least_seconds
    from inlearn.training.stack import Stack

    members = next((int(text.partition("=")[2]) for text in overrides if text.startswith("members=")), None)
    words = [text for text in overrides if not text.startswith("members=")]
    every = [build(compose(discovery.study(study), [*words, f"seed={seed}"])) for seed in range(members or 1)]
    built, task, device = every[0], every[0].tasks[0], every[0].device
    if members is None:
        trainer = build_trainer(built)
        parameters = trainer.count
    else:
        stack = Stack([build_member(one) for one in every], device, built.config.precision)
        parameters = stack.flat.values.numel()

    def steps(count: int) -> None:
        for _ in range(count):
            if members is None:
                trainer.keep_losses(None)
                trainer.update(task)
            else:
                stack.update()

    # What torch loads at the first product and the first backward pass belongs to no size.
    torch.nn.Linear(64, 64, device=device)(torch.ones(64, 64, device=device)).sum().backward()
    before = reset_peak(device)
    steps(1)
    once = least_seconds(lambda: steps(1), device, 0.0)
    together = min(max(int(SECONDS / 4 / once), 1), 16)
    ms = least_seconds(lambda: steps(together), device, SECONDS) * 1e3 / together
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else status("VmHWM")
    return {"parameters": parameters, "ms": ms, "MiB": (memory - before) / 2**20}


def reset_peak(device: Any) -> int:
    """Let the peak of memory be what is held now; how many bytes that is."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def exponents(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Slope of log(value) against log(size): by least squares, and between the last two."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    whole = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)
    return whole, (y[-1] - y[-2]) / (x[-1] - x[-2])


def summary(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every curve its exponents, and a sentence where it is not near linear at its end."""
    lines = []
    for axis in dict.fromkeys(x["axis"] for x in found):
        curve = [x for x in found if x["axis"] == axis]
        for quantity in ("ms", "MiB"):
            whole, end = exponents([x["size"] for x in curve], [x[quantity] for x in curve])
            line = {"axis": axis, "quantity": quantity, "exponent": whole, "at the large end": end}
            if end > NEAR_LINEAR[1]:
                line["why"] = STEEPER.get((axis, quantity), "not explained")
            elif end < NEAR_LINEAR[0]:
                (x, y), (x_last, y_last) = [(point["size"], point[quantity]) for point in curve[-2:]]
                start = y - x * (y_last - y) / (x_last - x)
                line["why"] = (
                    f"a part does not grow: the line through the last two points begins at {start:.3g} {quantity}"
                )
            lines.append(line)
    return lines


def draw(found: Sequence[dict[str, Any]], quantity: str, title: str) -> str:
    """The curves as SVG, against the size relative to each curve's smallest."""
    import pandas as pd

    from inlearn.charts.groups import values_against
    from inlearn.charts.theme import series_styles
    from inlearn.reports.figures import svg

    smallest = {axis: min(x["size"] for x in found if x["axis"] == axis) for axis in {x["axis"] for x in found}}
    names = {axis: f"{axis} (1 is {size:,})" for axis, size in smallest.items()}
    points = pd.DataFrame(
        {"series": names[x["axis"]], "at": x["size"] / smallest[x["axis"]], "mean": x[quantity]} for x in found
    ).assign(low=float("nan"), high=float("nan"))
    styles = series_styles(list(dict.fromkeys(points["series"])))
    return svg(values_against(points, styles, "size, relative to the smallest", title).to_dict())


def main() -> None:
    found = measure(CURVES)
    columns = ("axis", "size", "parameters", "ms", "MiB")
    print_table(columns, [[x[c] for c in columns] for x in found])
    lines = summary(found)
    columns = ("axis", "quantity", "exponent", "at the large end")
    print_table(columns, [[line[c] for c in columns] for line in lines])
    for line in lines:
        if "why" in line:
            print(f"{line['quantity']} against {line['axis']}: {line['why']}")
    store("scaling", {"load average at the end": os.getloadavg()[0], "points": found, "curves": lines})
    for quantity, title, name in (("ms", "ms a step", "time"), ("MiB", "MiB beyond the start", "memory")):
        (RESULTS / f"scaling-{name}.svg").write_text(draw(found, quantity, title))


if __name__ == "__main__":
    if sys.argv[1:2] == ["point"]:
        print(json.dumps(point(*sys.argv[2:])))
    else:
        main()
