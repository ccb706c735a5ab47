"""Model and guide in Pyro's parameter store, where something asks for their parameters.
Used by the base classes of models and guides.

`pyro.infer.SVI` trains what programs register by `pyro.param` or `pyro.module`, and nothing else. The
project's own trainer optimises torch modules directly and leaves the store, which is global, alone. So
parameters are registered only while a handler collects them, under names that are unique to each
instance: two models in one process do not overwrite each other.
"""

from __future__ import annotations

from itertools import count
from weakref import WeakKeyDictionary

import pyro
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import nn

_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_numbers = count()


def store_name(module: nn.Module) -> str:
    """The name under which a module's parameters are registered, unique among living instances."""
    if module not in _names:
        _names[module] = f"{type(module).__name__}-{next(_numbers)}"
    return _names[module]


def register_parameters(module: nn.Module) -> None:
    """Register a module's parameters with Pyro if a handler outside collects parameters, as
    `pyro.infer.SVI` does; else do nothing."""
    if any(isinstance(handler, TraceMessenger) and handler.param_only for handler in _PYRO_STACK):
        learning = any(parameter.requires_grad for parameter in module.parameters())
        if learning:
            pyro.module(store_name(module), module)
