"""Whether a pass can be one CUDA graph, found before a capture begins, and what it reads that must outlive it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from fastsal._torch import TorchDispatchMode, tree_leaves

_WAITS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
"""Of operations whose result the host must know, as a number or as a shape."""
_CHECKED = ("linalg_", "_linalg_", "cholesky", "linalg.")
_UNCHECKED = ("_ex", "linalg_vector_norm", "linalg_cross", "linalg_householder_product", "linalg_matrix_exp")
"""Linear algebra asks the device whether it succeeded, except for these."""


class NotCapturable(RuntimeError):
    """A pass waits for the device or uses the host's memory, which a graph cannot hold."""


class Capturable(TorchDispatchMode):
    """Sees every operation of a pass: refuses what a graph cannot hold, and keeps what was there before.

    A capture that fails leaves the process's allocator in a state that later calls stumble over, so a pass is asked
    here, in a dry run, before a capture begins. A graph reads memory by its address: whatever a pass did not make
    itself (weights, constants of a cache) has to live as long as the graph does.

    Attributes:
        kept: tensors that the pass read and did not make, each a view of the same memory.

    Raises:
        NotCapturable: from inside the pass, at the first operation that a graph cannot hold.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept: list[Tensor] = []
        self._seen: set[int] = set()
        self._made: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self._keep(given)
        _refuse_transfers(func, given, kwargs.get("device"))
        if any(tensor.device.type != "cpu" for tensor in given):
            _refuse_waits(func, args, kwargs)
        result = func(*args, **kwargs)
        before = {storage._cdata for tensor in given for storage in _storages(tensor)}
        for leaf in tree_leaves(result):
            for storage in _storages(leaf) if isinstance(leaf, Tensor) else ():
                if storage._cdata not in before:
                    self._made[storage._cdata] = StorageWeakRef(storage)
        return result

    def _keep(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            for storage in _storages(tensor):
                key = storage._cdata
                made = self._made.get(key)
                if key not in self._seen and (made is None or made.expired()):
                    self._seen.add(key)  # alive from here on, so no other storage gets its address
                    self.kept.append(tensor.detach())


def _refuse_waits(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    name = func.overloadpacket.__name__
    waits = any(tag in func.tags for tag in _WAITS) or name.startswith("index_put")
    if waits and not (name.startswith("index") and not _by_mask(name, *args, **kwargs)):
        raise NotCapturable(f"{func} tells the host a value that the device computes")
    if name.startswith(_CHECKED) and not name.endswith(_UNCHECKED):
        raise NotCapturable(f"{func} asks the device whether it succeeded")


def _refuse_transfers(func: Any, given: list[Tensor], to: Any) -> None:
    """Copies between the host's pageable memory and the device.

    A number of the host's becomes an argument of a kernel, and pinned memory is read as the device comes to it.
    """
    kinds = {tensor.device.type for tensor in given if tensor.dim() or tensor.device.type != "cpu"}
    if to is not None and given:
        kinds.add(torch.device(to).type)
    moves = "cpu" in kinds and len(kinds) > 1
    if moves and all(tensor.is_pinned() for tensor in given if tensor.device.type == "cpu"):
        moves = not kinds - {"cpu"} or torch.device(to or "cpu").type == "cpu"
    if moves or (func.overloadpacket.__name__ == "lift_fresh" and given[0].device.type != "cpu"):
        raise NotCapturable(f"{func} moves a tensor between host and device")


def _by_mask(name: str, tensor: Tensor, indices: Any, values: Any = None, accumulate: bool = False, *_: Any) -> bool:
    """Whether an indexing must count what a mask selects; one number in its places needs no count."""
    masks = any(isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8) for each in indices)
    return masks and not (name.startswith("index_put") and values.numel() == 1 and not accumulate)


def _storages(tensor: Tensor) -> list[Any]:
    """Memory that a tensor is a view of: none for one without, of a kind of its own."""
    try:
        return [tensor.untyped_storage()]
    except (NotImplementedError, RuntimeError):
        return []
