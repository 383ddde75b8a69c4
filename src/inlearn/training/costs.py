"""What a step costs, counted: every operator that torch dispatches, its FLOP, the bytes that it reads and writes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from inlearn.core.batch import Batch


@dataclass(frozen=True)
class Cost:
    """`calls` operators, of which `moving` are no views; `flop` of matrix products alone; `bytes` read and written.

    elements: computed by operators that are no products and do more than move or fill.
    """

    calls: int = 0
    moving: int = 0
    flop: int = 0
    bytes: int = 0
    elements: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))


class OperatorCounter(TorchDispatchMode):
    """Within the block, `costs` grows by every operator, by its name as torch.profiler says it (`aten::addmm`).

    FLOP: 2mnk for a product of m × k by k × n, forward and backward as they are dispatched; a masked attention product
    counts whole, as kernels compute it; elementwise arithmetic counts nothing. Of fused recurrent kernels only the
    CPU's LSTM is known.

    Bytes: every tensor that an operator reads or writes, once, as if nothing stayed in a cache and nothing were
    fused: an upper bound of what the memory has to move. Views move nothing; what is broadcast counts unexpanded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.costs: dict[str, Cost] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler (a second and more) only to keep it away from this class

    @property
    def total(self) -> Cost:
        return sum(self.costs.values(), Cost())

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.namespace != "prim":  # questions such as a tensor's device
            moved = _bytes(func, args, kwargs, out)
            flop = _flop(func, args, kwargs, out)
            elements = _elements(func, out) if moved and not flop else 0
            cost = Cost(1, int(moved > 0), flop, moved, elements)
            name = func._schema.name
            self.costs[name] = self.costs.get(name, Cost()) + cost
        return out


# ---------------------------------------------------------------- FLOP


def _flop(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    name = func.overloadpacket.__name__
    if name.startswith("_scaled_dot_product"):  # torch's formulas leave the CPU's kernel out, and count recomputation
        backward = name.endswith("_backward")
        q, k, v = args[1:4] if backward else args[:3]
        return (2 if backward else 1) * attention_flop(q.shape, k.shape, v.shape)
    if name.startswith(
        "mkldnn_rnn_layer"
    ):  # input (T, N, C), weights (4H, C) and (4H, H); a gradient takes two products
        steps, rows, _ = args[0].shape
        return 2 * steps * rows * (args[1].numel() + args[2].numel()) * (2 if name.endswith("_backward") else 1)
    formula = flop_registry.get(func.overloadpacket)
    return int(formula(*args, **kwargs, out_val=out)) if formula else 0


def attention_flop(q: Sequence[int], k: Sequence[int], v: Sequence[int]) -> int:
    """Forward: scores and mixing of q (B, H, T, d) with k (B, K, S, d) and v (B, K, S, d'), nothing left out."""
    return 2 * q[0] * q[1] * q[2] * k[2] * (q[3] + v[3])


MOVING = {
    *("cat", "stack", "clone", "copy", "copy_", "_to_copy", "_unsafe_view", "constant_pad_nd", "repeat", "flip"),
    *("embedding", "index", "index_select", "gather", "slice_scatter", "select_scatter", "index_put_", "scatter"),
    *("zeros", "zeros_like", "new_zeros", "zero_", "ones", "ones_like", "new_ones", "fill_", "full", "full_like"),
    *("new_full", "scalar_tensor", "arange", "eye", "tril", "triu"),
}  # they compute no element


def _elements(func: Any, out: Any) -> int:
    if func.overloadpacket.__name__ in MOVING:
        return 0
    return sum(t.numel() * (2 if t.is_complex() else 1) for t in _tensors(out))


# ---------------------------------------------------------------- bytes

ALLOCATING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
OVERWRITING = {"copy_", "zero_", "fill_"}  # their first argument is written, not read
GATHERING = {"embedding", "index", "index_select", "gather"}  # of their first argument only what is asked for is read


def _bytes(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    name = func.overloadpacket.__name__
    if name in ALLOCATING:
        return 0
    given = list(_arguments(func, args, kwargs))
    inputs = [t for _, value in given for t in _tensors(value)]
    held = {_storage(t) for t in inputs}
    made = [t for t in _tensors(out) if _storage(t) not in held]
    changed = [t for written, value in given if written for t in _tensors(value)]
    if not made and not changed:
        return 0  # a view, or a question
    read = inputs[1:] if name in OVERWRITING else inputs
    total = size(read) + size(made) + size(changed)
    if name in GATHERING:
        total -= max(0, size(inputs[:1]) - size(made))
    return total


def _arguments(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[bool, Any]]:
    """(whether the operator writes to it, its value) of every argument."""
    for place, argument in enumerate(func._schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        yield argument.alias_info is not None and argument.alias_info.is_write, value


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of the elements that exist: an expanded axis is in memory once."""
    return sum(
        t.element_size() * math.prod(n for n, stride in zip(t.shape, t.stride(), strict=True) if stride or not n)
        for t in tensors
    )


def compulsory_bytes(trained: Sequence[Tensor], optimiser: torch.optim.Optimizer, batch: Batch) -> int:
    """What a step must move even if all between came and went in a cache.

    Weights, gradients and moments are read once and written once, the batch is read once. The optimiser has made a
    step, so that its moments are there.
    """
    moments = [value for state in optimiser.state.values() for value in state.values() if isinstance(value, Tensor)]
    parts = (batch.inputs, batch.targets, batch.weights, batch.prefix)
    # Gradients are as large as the weights.
    return 4 * size(trained) + 2 * size(moments) + size(part for part in parts if part is not None)
