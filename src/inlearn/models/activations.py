"""Looking at and editing a model's activations by name, on torch's own forward hooks.

Names are module paths and stable. In a transformer (layer l; N rows, T positions, C width, H heads of d, S keys; a
stack leads every shape with its members; key and value have kv_heads):

    embed                                   (N, T, C)     embedded inputs, before positions
    positions                               (T, C)        rows of the learned table; with `learned`, `shortformer`
    blocks.l.input                          (N, T, C)     the residual stream
    blocks.l.attention.query, key, value    (N, T, H, d)  after rotation
    blocks.l.attention.scores               (N, H, T, S)  scaled and masked, before softmax
    blocks.l.attention.pattern              (N, H, T, S)
    blocks.l.attention.mixed                (N, T, H, d)  values mixed by the pattern, head by head
    blocks.l.attention.output               (N, T, C)     what attention adds to the stream
    blocks.l.middle                         (N, T, C)     the stream between attention and MLP
    blocks.l.mlp.hidden                     (N, T, mlp)   after the activation (and gate)
    blocks.l.mlp.output                     (N, T, C)     what the MLP adds to the stream
    blocks.l.output                         (N, T, C)
    final                                   (N, T, C)     after the last norm
    outputs                                 (N, T, width)

While anything is hooked, a model does no work-saving: every position is computed whatever is scored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from inlearn.core.errors import unknown

Edit = Callable[[Tensor], Tensor]


class Point(nn.Identity):
    """A named place in a model where an activation passes; without a forward hook it costs one look-up."""

    @property
    def hooked(self) -> bool:
        return bool(self._forward_hooks)

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) if self._forward_hooks else x


def names(model: nn.Module) -> list[str]:
    """Every activation the model has, in module order."""
    return [name for name, module in model.named_modules() if isinstance(module, Point)]


def matching(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The names that match glob patterns such as `blocks.*.attention.pattern`; a pattern without any is a UserError."""
    known = names(model)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise unknown("activation", pattern, known)
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


@contextlib.contextmanager
def capture(model: nn.Module, wanted: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the block, every forward pass leaves the wanted activations in the dict (the last pass remains).

    They are as the model used them, edits included, and still part of the graph: wrap in no_grad or detach as needed.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output

        return hook

    with contextlib.ExitStack() as hooks:
        for name in matching(model, wanted):
            hooks.callback(model.get_submodule(name).register_forward_hook(keep(name)).remove)
        yield seen


@contextlib.contextmanager
def intervene(model: nn.Module, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Within the block, each matching activation is replaced by what its function makes of it.

    Edits run before captures, wherever they are nested; of two edits of one activation the inner block's runs first.
    """

    def hook_of(edit: Edit) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return edit(output)

        return hook

    with contextlib.ExitStack() as hooks:
        for pattern, edit in edits.items():
            for name in matching(model, [pattern]):
                handle = model.get_submodule(name).register_forward_hook(hook_of(edit), prepend=True)
                hooks.callback(handle.remove)
        yield
