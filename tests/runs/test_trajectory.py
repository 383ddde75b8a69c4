from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.runs.trajectory import Trajectory

LAYOUT = [("embed", (3, 2)), ("scale", ()), ("bias", (4,))]
SIZE = 11


def weights_after(step: int) -> torch.Tensor:
    return torch.arange(SIZE, dtype=torch.float32) * 0.1 + step


def recorded(path: Path, *steps: int) -> Trajectory:
    trajectory = Trajectory(path, LAYOUT)
    for step in steps:
        trajectory.append(step, weights_after(step))
    return trajectory


def test_rows_are_read_back_by_step_and_by_name(tmp_path: Path) -> None:
    assert recorded(tmp_path, 0, 5, 7).rows == 3
    trajectory = Trajectory.open(tmp_path)
    array = trajectory.read()
    assert array.dims == ("step", "parameter") and array["step"].values.tolist() == [0, 5, 7]
    assert array.attrs["layout"] == LAYOUT and array.dtype == np.float32
    assert np.array_equal(array.sel(step=5).values, weights_after(5).numpy())
    named = trajectory.weights(7)
    assert {name: tuple(value.shape) for name, value in named.items()} == dict(LAYOUT)
    assert torch.equal(torch.cat([value.flatten() for value in named.values()]), weights_after(7))
    assert (tmp_path / "weights.f32").stat().st_size == 3 * SIZE * 4
    first = f'{{"step":0,"crc32":{zlib.crc32(weights_after(0).numpy().tobytes())}}}'
    assert (tmp_path / "rows.jsonl").read_text().splitlines()[0] == first
    assert trajectory.verify() == []


def test_an_empty_trajectory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no trajectory"):
        Trajectory.open(tmp_path)
    trajectory = recorded(tmp_path)
    assert trajectory.rows == 0 and trajectory.read().shape == (0, SIZE) and trajectory.verify() == []
    assert trajectory.sync() == 0
    trajectory.truncate(0)
    with pytest.raises(UserError, match="no weights of step 3"):
        trajectory.weights(3)


def test_the_array_is_mapped_not_loaded(tmp_path: Path) -> None:
    values = recorded(tmp_path, 0, 1).read().values
    while values.base is not None and not isinstance(values, np.memmap):
        values = values.base
    assert isinstance(values, np.memmap)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (torch.zeros(SIZE + 1), r"\(11,\) float32"),
        (torch.zeros(SIZE, dtype=torch.float64), "float64"),
        (torch.zeros(1, SIZE), r"\(1, 11\)"),
    ],
)
def test_rows_of_another_form_are_refused(tmp_path: Path, row: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recorded(tmp_path, 0).append(1, row)


def test_steps_ascend_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    trajectory = recorded(tmp_path, 0, 5, 9)
    with pytest.raises(ValueError, match="step 9 comes after step 9"):
        trajectory.append(9, weights_after(9))
    with pytest.raises(UserError, match=r"no weights of step 6 .* nearest: \[0, 5, 9\]"):
        trajectory.weights(6)


def test_another_model_is_refused(tmp_path: Path) -> None:
    recorded(tmp_path, 0).close()
    with pytest.raises(EnvironmentFault, match="another model"):
        Trajectory(tmp_path, [("embed", (2, 3)), *LAYOUT[1:]])


def test_truncated_and_written_again_it_is_the_same_bytes(tmp_path: Path) -> None:
    recorded(tmp_path / "straight", 0, 1, 2, 3).close()
    resumed = recorded(tmp_path / "resumed", 0, 1)
    assert resumed.sync() == 2
    resumed.append(2, -weights_after(2))
    resumed.truncate(2)
    resumed.append(2, weights_after(2))
    resumed.append(3, weights_after(3))
    resumed.close()
    for name in ("weights.f32", "rows.jsonl", "layout.json"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    with pytest.raises(EnvironmentFault, match="4 rows, but the checkpoint was written after 5"):
        resumed.truncate(5)


@pytest.mark.parametrize(
    ("weights", "lines", "rows"),
    [(3 * 44 + 20, None, 3), (2 * 44 + 43, None, 2), (3 * 44, -3, 2), (3 * 44, 0, 0), (0, None, 0)],
)
def test_what_a_kill_leaves_half_written_does_not_count(
    tmp_path: Path, weights: int, lines: int | None, rows: int
) -> None:
    recorded(tmp_path, 0, 1, 2).close()
    with (tmp_path / "weights.f32").open("r+b") as file:
        file.truncate(weights)
    index = (tmp_path / "rows.jsonl").read_bytes()
    (tmp_path / "rows.jsonl").write_bytes(index[:lines])
    trajectory = Trajectory.open(tmp_path)
    assert trajectory.rows == rows == trajectory.read().sizes["step"]
    trajectory.append(8, weights_after(8))
    trajectory.close()
    assert Trajectory.open(tmp_path).verify() == []
    assert torch.equal(Trajectory.open(tmp_path).weights(8)["bias"], weights_after(8)[-4:])
    assert (tmp_path / "weights.f32").stat().st_size == (rows + 1) * 44


@pytest.mark.parametrize("byte", range(0, 3 * 44, 7))
def test_a_flipped_bit_is_found(tmp_path: Path, byte: int) -> None:
    recorded(tmp_path, 0, 1, 2).close()
    content = bytearray((tmp_path / "weights.f32").read_bytes())
    content[byte] ^= 1
    (tmp_path / "weights.f32").write_bytes(content)
    (problem,) = Trajectory.open(tmp_path).verify()
    assert f"step {byte // 44} " in problem
