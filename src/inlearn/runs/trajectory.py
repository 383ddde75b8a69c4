"""Dense weight trajectories: one row of weights for each recorded step, appended to one raw array.

    weights.f32   rows x P float32, little-endian, row after row
    rows.jsonl    {"step": ..., "crc32": ...} for every row
    layout.json   name and shape of each parameter, in the order in which a row holds them

Ten thousand rows are two files here; as checkpoints they would be forty thousand.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.core.files import machine_faults, read_json, write_json
from inlearn.runs.lines import MetricsWriter, read_lines, truncate

Layout = list[tuple[str, tuple[int, ...]]]


class Trajectory:
    """The trajectory in folder `path`, of weights that `layout` names: [(name, shape), ...], P numbers in all.

    `append` and `truncate` are for the holder of the run's lease. Raises `EnvironmentFault` if the folder holds
    the weights of another model.
    """

    def __init__(self, path: Path, layout: Sequence[tuple[str, Sequence[int]]]) -> None:
        self.path = path
        self.layout: Layout = [(name, tuple(shape)) for name, shape in layout]
        self.size = sum(math.prod(shape) for _, shape in self.layout)
        self._weights, self._index = path / "weights.f32", path / "rows.jsonl"
        if not (path / "layout.json").exists():
            write_json(path / "layout.json", [{"name": name, "shape": shape} for name, shape in self.layout])
        elif _stored_layout(path) != self.layout:
            raise EnvironmentFault(f"{path} holds the weights of another model: its layout.json differs")
        self._lines = self._whole_rows()
        self._writer: MetricsWriter | None = None

    @staticmethod
    def open(path: Path) -> Trajectory:
        """A trajectory that exists; `UserError` if there is none."""
        if not (path / "layout.json").exists():
            raise UserError(f"{path} holds no trajectory: record one by asking the run for it")
        return Trajectory(path, _stored_layout(path))

    def _whole_rows(self) -> list[dict[str, Any]]:
        """A kill may leave weights without their line, or lines whose weights never reached the disk."""
        lines = read_lines(self._index)
        present = self._weights.stat().st_size // (4 * self.size) if self._weights.exists() else 0
        return lines[:present]

    @property
    def rows(self) -> int:
        return len(self._lines)

    @property
    def steps(self) -> list[int]:
        return [line["step"] for line in self._lines]

    # ------------------------------------------------------------ writing

    def append(self, step: int, row: Tensor) -> None:
        """Add the weights (P,) float32 after update `step`, which must be later than every step before."""
        if row.shape != (self.size,) or row.dtype != torch.float32:
            raise ValueError(f"a row is ({self.size},) float32, not {tuple(row.shape)} {row.dtype}")
        if self._lines and step <= self._lines[-1]["step"]:
            raise ValueError(f"step {step} comes after step {self._lines[-1]['step']}")
        content = np.ascontiguousarray(row.detach().cpu().numpy(), "<f4").data.cast("B")
        line = {"step": step, "crc32": zlib.crc32(content)}
        if self._writer is None:
            self._start_writing()
        with machine_faults(self._weights):
            offset = self.rows * 4 * self.size
            while content:
                written = os.pwrite(self._handle, content, offset)
                content, offset = content[written:], offset + written
        # The line comes last: a row counts from the moment in which its line is whole.
        self._writer.write(line)
        self._writer.flush()
        self._lines.append(line)

    def _start_writing(self) -> None:
        self.truncate(self.rows)
        with machine_faults(self._weights):
            self._handle = os.open(self._weights, os.O_RDWR | os.O_CREAT, 0o666)
        self._writer = MetricsWriter(self._index)

    def sync(self) -> int:
        """Make what was appended survive a power cut; the number of rows, for a checkpoint's `lengths`."""
        if self._writer is not None:
            with machine_faults(self._weights):
                os.fsync(self._handle)
            self._writer.flush(sync=True)
        return self.rows

    def truncate(self, rows: int) -> None:
        """Keep the first `rows` rows; `EnvironmentFault` if there are fewer."""
        if self.rows < rows:
            raise EnvironmentFault(
                f"{self.path} is damaged: {self.rows} rows, but the checkpoint was written after {rows}"
            )
        self.close()
        self._lines = self._lines[:rows]
        lines = self._index.read_bytes().split(b"\n")[:rows] if rows else []
        truncate(self._index, sum(len(line) + 1 for line in lines))
        truncate(self._weights, rows * 4 * self.size)

    def close(self) -> None:
        """Close the files; the next `append` opens them again."""
        if self._writer is not None:
            self._writer.close()
            os.close(self._handle)
            self._writer = None

    # ------------------------------------------------------------ reading

    def read(self) -> xr.DataArray:
        """All rows as (step, parameter) float32, mapped from the file, not loaded; attribute `layout` as given."""
        if self.rows:
            values: np.ndarray = np.memmap(self._weights, "<f4", "r", shape=(self.rows, self.size))
        else:
            values = np.empty((0, self.size), "<f4")
        attributes = {"layout": self.layout}
        return xr.DataArray(values, {"step": self.steps}, ("step", "parameter"), "weights", attributes)

    def weights(self, step: int) -> dict[str, Tensor]:
        """The weights after update `step`, by name; `UserError` if that step was not recorded."""
        try:
            row = self.steps.index(step)
        except ValueError:
            near = sorted(sorted(self.steps, key=lambda known: abs(known - step))[:3])
            raise UserError(f"no weights of step {step} in {self.path}; nearest: {near or 'none'}") from None
        flat = torch.from_numpy(self.read().values[row].astype(np.float32))
        pieces = flat.split([math.prod(shape) for _, shape in self.layout])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.layout, pieces, strict=True)}

    def verify(self) -> list[str]:
        """One sentence for every row whose weights are not those that were written."""
        lines, problems = read_lines(self._index), []
        if len(lines) > self.rows:
            problems.append(f"{self._weights} ends after {self.rows} of {len(lines)} rows")
        for line, row in zip(self._lines, self.read().values, strict=True):
            if zlib.crc32(row.tobytes()) != line["crc32"]:
                problems.append(f"{self._weights}: the weights of step {line['step']} are damaged (crc32)")
        return problems


def _stored_layout(path: Path) -> Layout:
    return [(entry["name"], tuple(entry["shape"])) for entry in read_json(path / "layout.json")]
