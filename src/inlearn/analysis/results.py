"""Results as arrays whose axes have names: safetensors beside a JSON file that says what the axes are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inlearn.core.errors import EnvironmentFault
from inlearn.core.files import machine_faults, read_json, write_json

if TYPE_CHECKING:
    import xarray

ARRAYS, DESCRIPTION = "result.safetensors", "result.json"


@dataclass(frozen=True)
class Result:
    """`arrays` by name, float64, NaN where there is no value; `axes` names the axes of each; `labels` says what stands
    along an axis. `facts` are what no array holds (plain JSON values)."""

    arrays: Mapping[str, NDArray[np.float64]]
    axes: Mapping[str, Sequence[str]]
    labels: Mapping[str, Sequence[str | int]]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def dataset(self) -> xarray.Dataset:
        import xarray

        arrays = {name: (list(self.axes[name]), values) for name, values in self.arrays.items()}
        coordinates = {axis: list(labels) for axis, labels in self.labels.items()}
        return xarray.Dataset(arrays, coordinates, {"facts": dict(self.facts)})

    def write(self, folder: Path, asked: Mapping[str, Any]) -> None:
        """Two files in `folder`; `asked` is kept beside the result so that it says whose it is."""
        from safetensors.numpy import save_file

        with machine_faults(folder):
            save_file({name: np.ascontiguousarray(values) for name, values in self.arrays.items()}, folder / ARRAYS)
        described = {"axes": self.axes, "labels": self.labels, "facts": self.facts, "asked": asked}
        write_json(folder / DESCRIPTION, {key: dict(value) for key, value in described.items()})

    @staticmethod
    def read(folder: Path) -> Result:
        """EnvironmentFault where the files are damaged or missing."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            described = read_json(folder / DESCRIPTION)
            arrays = load_file(folder / ARRAYS)
            result = Result(arrays, described["axes"], described["labels"], described["facts"])
            for name, values in arrays.items():
                if values.shape != tuple(len(result.labels[axis]) for axis in result.axes[name]):
                    raise ValueError(f"{name} has shape {values.shape}")
        except (FileNotFoundError, SafetensorError, KeyError, ValueError) as error:
            raise EnvironmentFault(f"{folder} is damaged ({error}); delete it to have it made again") from None
        return result
