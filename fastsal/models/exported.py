"""Archives of torch.export read as data: a graph of known operators and raw tensors, and nothing that is executed.

PyTorch's own reader unpickles, imports modules that a file names, evaluates its expressions and turns its names into
source code. Here a copy is made for it that can hold none of these: what is not known to be data is refused.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastsal.models.archives import FAULTS, Unsafe, opened

_PLAIN = re.compile(r"[\w.\-]*")
_NAME = re.compile(r"\w*(?:\.\w+)*")
_TEXTS = {
    # What the graph's names become is source code, so they are names and nothing else.
    "as_string": re.compile(r"[\w\s.,:>+\-*/=]*"),  # the argument of an operator: "same", "bij,bjk->bik"
    "nn_module_stack": re.compile(r"[\w.,;@$<>\[\]()\-]*"),
    "torch_version": re.compile(r"[\w.+\-]*"),
}
_DROPPED: dict[str, Any] = {"guards_code": [], "treespec_namedtuple_fields": {}}
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims|quantized|quantized_decomposed|torchvision)\.(\w+)\.(\w+)")
_REFUSED_OPERATOR = re.compile(r"_test_|_print|_unsafe_(?!view)|_cslt_|warn\b|from_file|save|set_\b|set\b")
_STRUCTURE = {"cond", "wrap_with_set_grad_enabled", "wrap_with_autocast"}
_FUNCTIONS = re.compile(
    r"_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|xor)"
    r"|math\.(ceil|floor|trunc|sqrt|log|log2|exp)"
    r"|torch\.(sym_int|sym_float|sym_max|sym_min|sym_not|sym_ite|sym_sum|sym_sqrt|_sym_sqrt)"
)
_SYMBOLIC = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|Abs|And|Or|Not|Equality|Unequality|Eq|Ne|Lt|Le|Gt|Ge"
    r"|StrictLessThan|LessThan|GreaterThan|StrictGreaterThan|FloorDiv|ModularIndexing|Where|PythonMod|CleanDiv|CeilToInt"
    r"|FloorToInt|CeilDiv|LShift|RShift|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv|TruncToFloat|TruncToInt"
    r"|RoundToInt|ToFloat|Identity"
)
_CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None}
_CARRIED = re.compile(r"archive_format|archive_version|byteorder|version|\.data/version|data/(weights|constants)/\w+")
_CODE = re.compile(r"(^|/)data/aotinductor/|\.(so|pyd|dll|dylib|o|py|pyc|cpp|cubin)$", re.IGNORECASE)


def as_data(path: Path) -> tuple[io.BytesIO, tuple[int, int] | None]:
    """A copy that PyTorch's reader can be given, and the height and width of the model's input where it has some.

    Raises:
        Unsafe: for what is not known to be data, naming it and ``trust_code``.
        Exception: one of :data:`fastsal.models.archives.FAULTS` for a damaged archive.
    """
    with opened(path) as archive:
        names = archive.namelist()
        native = next((name for name in names if _CODE.search(name)), None)
        if native is not None:
            _refuse(path, f"holds code, {native!r}")
        copy = io.BytesIO()
        with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
            old = "serialized_exported_program.json" in names
            size = (_old if old else _new)(path, archive, target)
    copy.seek(0)
    return copy, size


def _refuse(path: Path, what: str) -> None:
    raise Unsafe(f"{path} {what}, which would run while it is loaded or called; trust_code (--trust-code) allows it")


def _old(path: Path, archive: zipfile.ZipFile, target: zipfile.ZipFile) -> tuple[int, int] | None:
    """The format of PyTorch before 2.8."""
    program = _program(path, archive.read("serialized_exported_program.json"))
    target.writestr("serialized_exported_program.json", json.dumps(program))
    target.writestr("version", archive.read("version"))
    for name in ("serialized_state_dict", "serialized_constants"):
        member = next((each for each in archive.namelist() if each in (f"{name}.pt", f"{name}.json")), None)
        if member is not None:
            target.writestr(member, _tensors(path, member, archive.read(member)))
    # The reader takes an empty one for none.
    target.writestr("serialized_example_inputs.pt", b"")
    return _size(program)


def _new(path: Path, archive: zipfile.ZipFile, target: zipfile.ZipFile) -> tuple[int, int] | None:
    size: tuple[int, int] | None = None
    found = False
    for full in archive.namelist():
        name = full.partition("/")[2]
        content: bytes | None = None
        if name == "models/model.json":
            program = _program(path, archive.read(full))
            content, size, found = json.dumps(program).encode(), _size(program), True
        elif re.fullmatch(r"data/(weights|constants)/model_\w+_config\.json", name):
            content = _payload(path, archive, full)
        elif re.fullmatch(r"data/(weights|constants)/model\.pt", name):
            content = _tensors(path, name, archive.read(full))
        elif _CARRIED.fullmatch(name):
            content = archive.read(full)
        if content is not None:
            target.writestr("model/" + name, content)
    if not found:
        raise KeyError("there is no models/model.json in it")
    target.writestr("model/data/sample_inputs/model.pt", b"")
    return size


def _tensors(path: Path, member: str, content: bytes) -> bytes:
    """A pickle that PyTorch's restricted reader has read, and found tensors in; it takes that one first too."""
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True) if content else {}
    except Exception:  # a refusal, or anything at all on a damaged file
        found = None
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        _refuse(path, f"has a pickle of more than tensors, {member!r}")
    return content


def _payload(path: Path, archive: zipfile.ZipFile, member: str) -> bytes:
    """The table of a folder's tensors: raw bytes with their shapes."""
    config: dict[str, Any] = json.loads(archive.read(member))
    for name, entry in config["config"].items():
        at = entry["path_name"]
        if entry.get("use_pickle") or not re.fullmatch(r"(weight|tensor)_\d+", at):
            _refuse(path, f"has {name!r} as a pickle")
        meta = entry["tensor_meta"]
        sizes = [size["as_int"] for size in meta["sizes"]]
        if math.prod(sizes) > 0 and archive.getinfo(member.rpartition("/")[0] + "/" + at).file_size == 0:
            raise ValueError(f"the tensor {name!r} of {sizes} is empty")
    return json.dumps(_checked(path, config, "")).encode()


def _program(path: Path, content: bytes) -> dict[str, Any]:
    program: dict[str, Any] = json.loads(content)
    checked: dict[str, Any] = _checked(path, program, "")
    return checked


def _checked(path: Path, value: Any, key: str) -> Any:
    """The value with every text in it looked at; metadata is left out but for the names of modules."""
    if isinstance(value, dict):
        found = {}
        for name, part in value.items():
            if not _PLAIN.fullmatch(name):
                _refuse(path, f"has the name {name[:80]!r}")
            if name == "metadata":
                kept = part.get("nn_module_stack") if "target" in value else None
                part = {} if kept is None else {"nn_module_stack": kept}
            elif name in _DROPPED:
                part = _DROPPED[name]
            elif name == "target" and "inputs" in value:
                _check_operator(path, part)
            elif name in ("as_custom_obj", "as_opaque", "custom_obj") and part is not None:
                _refuse(path, "has an object of a class of its own")
            found[name] = _checked(path, part, name)
        return found
    if isinstance(value, list):
        return [_checked(path, part, key) for part in value]
    if isinstance(value, str):
        _check_text(path, key, value)
    return value


def _check_text(path: Path, key: str, text: str) -> None:
    if key == "expr_str":
        if not _is_arithmetic(text):
            _refuse(path, f"has the expression {text[:80]!r}")
    elif key in ("in_spec", "out_spec"):
        _check_containers(path, json.loads(text)[1] if text else {"type": None, "context": None, "children_spec": []})
    elif key == "as_operator":
        _check_operator(path, text)
    elif not _TEXTS.get(key, _PLAIN if key == "target" else _NAME).fullmatch(text) or len(text) > 4096:
        _refuse(path, f"has {text[:80]!r} where a name should be")


def _check_operator(path: Path, name: str) -> None:
    """ATen and its like compute; anything else that can be named may do anything."""
    aten = _OPERATOR.fullmatch(name)
    if aten is not None and not _REFUSED_OPERATOR.match(aten[2]):
        return
    module, _, function = name.rpartition(".")
    if module == "torch.ops.higher_order" and function in _STRUCTURE:
        return
    if _FUNCTIONS.fullmatch(name) is None:
        _refuse(path, f"calls {name[:80]!r}")


def _check_containers(path: Path, spec: Any) -> None:
    """Of inputs and outputs; another class's would be imported by its name."""
    if spec["type"] not in _CONTAINERS:
        _refuse(path, f"has inputs or outputs of the class {str(spec['type'])[:80]!r}")
    context = spec["context"]
    keys: Iterable[Any] = [] if context is None else json.loads(context) if isinstance(context, str) else context
    if keys is not None and not all(isinstance(each, (str, int)) for each in keys):
        _refuse(path, "has inputs or outputs by keys that are no texts")
    if isinstance(keys, dict):
        _refuse(path, "has inputs or outputs by keys that are no texts")
    for child in spec["children_spec"]:
        _check_containers(path, child)


def _is_arithmetic(text: str) -> bool:
    """Whether an expression of sizes is made of symbols, numbers and SymPy's arithmetic alone."""
    if len(text) > 4096:
        return False
    try:
        body = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return _arithmetic(body)


def _arithmetic(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        number = isinstance(node.value, (int, float)) and abs(node.value) < 2**64
        return number or (isinstance(node.value, str) and re.fullmatch(r"[\w.+\-]{1,40}", node.value) is not None)
    if isinstance(node, ast.Name):
        return re.fullmatch(r"[a-z]{1,4}_?\d+|true|false|oo|int_oo", node.id) is not None
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, (ast.USub, ast.UAdd)) and _arithmetic(node.operand)
    if isinstance(node, ast.BinOp):
        power = isinstance(node.op, ast.Pow) and not _small(node.right)
        return not power and not isinstance(node.op, ast.MatMult) and _arithmetic(node.left) and _arithmetic(node.right)
    if isinstance(node, ast.Compare):
        return all(map(_arithmetic, [node.left, *node.comparators]))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and _SYMBOLIC.fullmatch(node.func.id):
        power = "Pow" in node.func.id and not (len(node.args) == 2 and _small(node.args[1]))
        flags = all(isinstance(each.value, ast.Constant) and each.arg for each in node.keywords)
        return not power and flags and all(map(_arithmetic, node.args))
    return False


def _small(node: ast.expr) -> bool:
    """Whether an exponent is a number that keeps powers within bounds."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Integer" and node.args:
        node = node.args[0]
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) <= 8


def _size(program: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of the first input with four dimensions, as it was when the model was exported."""
    module = program["graph_module"]
    values = module["graph"]["tensor_values"]
    for spec in module["signature"]["input_specs"]:
        given = spec.get("user_input")
        name = given and given.get("arg", {}).get("as_tensor", {}).get("name")
        sizes = values[name]["sizes"] if name in values else []
        if len(sizes) == 4:
            height, width = (
                size.get("as_int") or (size["as_expr"].get("hint") or {}).get("as_int") for size in sizes[2:]
            )
            return (int(height), int(width)) if height and width else None
    return None


__all__ = ["FAULTS", "Unsafe", "as_data"]
