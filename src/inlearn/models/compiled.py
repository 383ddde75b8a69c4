"""Loss and gradients as one compiled function of the flat buffer, without autograd's tape.

Forward and backward are traced together by `torch.func.grad_and_value` and compiled by inductor to one C++ function.
Compiling a module the usual way leaves two graphs with autograd between them, which gains nothing on a CPU; the one
graph is 1.2 to 2.3 times faster than eager code (benchmarks/compile.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import FunctionType

import torch
from torch import Tensor

from inlearn.models.flat import FlatParameters

Losses = Callable[..., Tensor]
"""(parameters by name, *tensors) to a loss, or of a stack (E,) losses; pure, and the same for every call."""


class NotCompiled(RuntimeError):
    """The machine or torch could not compile it; the message is one line."""


class CompiledGradients:
    """`gradients(*tensors)` returns `losses` of the model's weights and adds its gradient to `flat.gradients`.

    `losses` is called once, to be traced: it may not look at numbers, and all tensors keep their shapes. Gradients
    are of the sum of losses, so each member of a stack gets its own. The first call compiles, for 10 to 30 seconds
    (less where inductor's cache on disk has it), and raises NotCompiled where that fails.
    """

    def __init__(self, flat: FlatParameters, losses: Losses) -> None:
        import torch._inductor.config as inductor  # seconds, which only who compiles should pay

        self.flat = flat

        def total(values: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
            each = losses(flat.named(values), *tensors)
            return each.sum(), each

        inductor.compile_threads = 1  # a pool of processes would outlive the worker that started it
        differentiate = torch.func.grad(total, has_aux=True)

        def both(values: Tensor, gradients: Tensor, *tensors: Tensor) -> Tensor:
            gradient, each = differentiate(values, *tensors)
            gradients.add_(gradient)
            return each

        # With code of its own: dynamo keeps what it compiled by code, and refuses the ninth of one, as another model or
        # a stack of another size would be.
        own = FunctionType(both.__code__.replace(), both.__globals__, both.__name__, None, both.__closure__)
        options = {"cpp_wrapper": flat.values.device.type == "cpu"}  # no Python between kernels
        self._both = torch.compile(own, fullgraph=True, dynamic=False, options=options)
        self._ready = False

    def __call__(self, *tensors: Tensor) -> Tensor:
        values, gradients = self.flat.values.detach(), self.flat.gradients
        with torch.no_grad():
            if self._ready:
                return self._both(values, gradients, *tensors)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # dynamo tells of every cache that it looks through
                    each = self._both(values, gradients, *tensors)
            except Exception as error:  # from dynamo, inductor, the C++ compiler, or the linker
                reason = str(error).strip().partition("\n")[0]
                raise NotCompiled(f"{type(error).__name__}: {reason}"[:300]) from error
        self._ready = True
        return each
