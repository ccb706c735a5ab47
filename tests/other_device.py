"""A device that is not there: for tests of what must not mix tensors of two devices.
Used by ``test_other_device.py``.

Inside `other_device`, tensors made on `DEVICE` hold their values in CPU tensors and compute with them,
but say that they lie elsewhere, and an operation that is given one of them and a tensor of the CPU
raises, as it does with a GPU. What chooses by ``device.type == "cuda"`` (kernels, graphs) is not tested
by this.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map

DEVICE = torch.device("meta")
"""The only type of device that any build of torch makes tensors of, on any machine."""
HERE = torch.device("cpu")
ANYWHERE = (
    torch.ops.aten._to_copy.default,
    torch.ops.aten.copy_.default,
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
)
"""Operations that move, and those that take indices of the CPU, too."""


class Away(Tensor):
    """Tensor whose values are held here."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Away:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(op, args, kwargs or {})


def _computed(op: Any, args: Any, kwargs: Any) -> Any:
    """An operation's result, by the values that are held; away where its arguments are, or where it is
    told to be."""
    leaves: list[Any] = []
    held, held_kwargs = _here(args, leaves), _here(kwargs, leaves)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    away = any(isinstance(tensor, Away) for tensor in tensors)
    # A tensor of one number may be anywhere.
    here = any(tensor.dim() > 0 and not isinstance(tensor, Away) for tensor in tensors)
    if away and here and op not in ANYWHERE:
        raise RuntimeError(f"{op} is given tensors of two devices")
    told = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    if op is torch.ops.aten.copy_.default:
        goes = isinstance(args[0], Away)
    elif op is torch.ops.aten._to_copy.default and told:
        goes = told[0] == DEVICE
    else:
        goes = away or DEVICE in told
    found = op(*held, **held_kwargs)
    if not goes:
        return found
    found = tree_map(lambda leaf: Away(leaf) if type(leaf) is Tensor else leaf, found)
    return return_and_correct_aliasing(op, args, kwargs, found) if away else found


def _here(tree: Any, leaves: list[Any]) -> Any:
    """Arguments as they are here; what was neither a list nor a dictionary is added to ``leaves``."""
    if isinstance(tree, list | tuple):
        return type(tree)(_here(each, leaves) for each in tree)
    if isinstance(tree, dict):
        return {name: _here(each, leaves) for name, each in tree.items()}
    leaves.append(tree)
    if isinstance(tree, Away):
        return tree.held
    return HERE if isinstance(tree, torch.device) and tree == DEVICE else tree


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(op, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Tensors of given numbers, which torch would make on `DEVICE` without the numbers."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        literal = function in (torch.tensor, torch.as_tensor)
        if (
            literal
            and kwargs.get("device") is not None
            and torch.device(kwargs["device"]) == DEVICE
        ):
            del kwargs["device"]
            return function(*args, **kwargs).to(DEVICE)
        return function(*args, **kwargs)


@contextmanager
def other_device() -> Iterator[torch.device]:
    """Inside the block, `DEVICE` computes."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    _forget_tables()
    try:
        with _Operations(), _Literals():
            yield DEVICE
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
        _forget_tables()


def _forget_tables() -> None:
    """Clear the package's caches, whose tables on `DEVICE` have values inside `other_device` alone."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "dood_pyro":
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
