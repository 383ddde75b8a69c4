"""Watches over the operators of a block of code: what would make the host wait, and what was there before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_DEPENDS_ON_DATA = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_BY_INDEX = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class Waits(TorchDispatchMode):
    """`found` names every operator after which the host waits for `device`, or it for the host, in the order met.

    These are looks at a number (`.item()`, `if tensor`), results whose shape depends on numbers (`nonzero`, masks as
    indices), copies between devices, and anything made elsewhere than on `device`.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device
        self.found: list[str] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if self._looks(operator, args):
            self.found.append(f"{operator} depends on numbers")
        elif away := {str(x.device) for x in (*given, *made) if x.device.type != self.device.type}:
            self.found.append(f"{operator} on {', '.join(sorted(away))}")
        return result

    @staticmethod
    def _looks(operator: Any, args: Any) -> bool:
        if operator in _BY_INDEX:  # numbers decide shapes where masks are the indices, and only there
            return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        return bool(_DEPENDS_ON_DATA & set(operator.tags))


class Read(TorchDispatchMode):
    """Holds the memory that operators read and did not make themselves: parameters, and constants out of caches.

    A CUDA graph goes on reading it at these addresses, whatever becomes of the caches.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, Any] = {}
        self._made: set[int] = set()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and (memory := tensor.untyped_storage()).data_ptr() not in self._made:
                self.held[memory.data_ptr()] = memory
        result = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (place := tensor.untyped_storage().data_ptr()) not in self.held:
                self._made.add(place)
        return result
