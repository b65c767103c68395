"""What Triton would specialise a launch on, and its machine code for an architecture, without a GPU."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {
    "torch.float32": "fp32",
    "torch.bfloat16": "bf16",
    "torch.float16": "fp16",
    "torch.uint8": "u8",
    "torch.int32": "i32",
    "torch.int64": "i64",
}


class Signature(NamedTuple):
    """What Triton specialises a launch on: argument types, constants, which arguments are divisible by 16."""

    types: dict[str, str]
    constants: dict[str, Any]
    divisible: tuple[int, ...]
    num_warps: int

    def key(self) -> str:
        """Text that is equal for equal signatures."""
        return json.dumps([self.types, self.constants, self.divisible, self.num_warps], sort_keys=True)


def signature_of(launch: Any) -> Signature:
    """The signature that the just-in-time compiler would give a launch."""
    types: dict[str, str] = {}
    constants: dict[str, Any] = {}
    divisible = []
    values = iter(launch.args)
    for parameter in launch.kernel.params:
        if parameter.is_constexpr:
            types[parameter.name] = "constexpr"
            constants[parameter.name] = launch.constexprs[parameter.name]
            continue
        value = next(values)
        specialize = not parameter.do_not_specialize
        if hasattr(value, "data_ptr"):
            types[parameter.name] = "*" + TYPES[str(value.dtype)]
            aligned = value.data_ptr() % 16 == 0
        elif isinstance(value, float):
            types[parameter.name] = "fp32"
            aligned = False
        elif specialize and value == 1:
            types[parameter.name] = "constexpr"
            constants[parameter.name] = 1
            aligned = False
        else:
            small = -(2**31) <= value < 2**31
            types[parameter.name] = parameter.annotation_type or ("i32" if small else "i64")
            aligned = specialize and value % 16 == 0
        if aligned:
            divisible.append(parameter.num)
    return Signature(types, constants, tuple(divisible), launch.num_warps)


def compiled_for(kernel: Any, signature: Signature, architecture: int) -> Any:
    """A kernel's machine code and what Triton says of it, without a GPU."""
    source = ASTSource(
        fn=kernel,
        signature=signature.types,
        constexprs=signature.constants,
        attrs={(number,): [["tt.divisibility", 16]] for number in signature.divisible},
    )
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source, target=target, options={"num_warps": signature.num_warps})
