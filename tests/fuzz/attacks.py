"""Files that execute code, or write where they should not, in a reader that trusts them: each would leave a mark."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Marks:
    """A pickle of it makes the mark as it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def network() -> nn.Module:
    """Five classes of images of 16 x 16."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    ).eval()


def exported(path: Path) -> Path:
    """A harmless archive, of any batch."""
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network(), (torch.rand(2, 3, 16, 16),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


def saved(value: Any, zipped: bool = True) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def rewritten(
    source: Path,
    path: Path,
    change: Callable[[str, bytes], bytes | None] = lambda name, content: content,
    added: dict[str, bytes] | None = None,
) -> Path:
    """A copy of an archive; change(name below the root, content) gives each member's new content, None drops it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a name that is there twice
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            content = change(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in (added or {}).items():
            new.writestr(name.replace("ROOT", root), content)
    return path


def with_program(source: Path, path: Path, change: Callable[[Any], Any]) -> Path:
    """A copy whose program was changed as JSON."""

    def changed(name: str, content: bytes) -> bytes:
        if name != "models/model.json":
            return content
        program = json.loads(content)
        return json.dumps(change(program) or program).encode()

    return rewritten(source, path, changed)


def _texts(old: str, new: str) -> Callable[[Any], Any]:
    return lambda program: json.loads(json.dumps(program).replace(json.dumps(old), json.dumps(new)))


def _input_named(name: str) -> Callable[[Any], Any]:
    """The graph's input under another name, the operators' arguments as they are."""

    def change(program: Any) -> Any:
        text = json.dumps(program).replace('{"name": "input"}', json.dumps({"name": name}))
        return json.loads(text.replace('"input": {"dtype"', f'{json.dumps(name)}: {{"dtype"'))

    return change


def _calls(target: str, *texts: str) -> Callable[[Any], None]:
    def change(program: Any) -> None:
        node = program["graph_module"]["graph"]["nodes"][-1]
        node["target"] = target
        node["inputs"] = [{"name": "", "arg": {"as_string": text}, "kind": 1} for text in texts]

    return change


def _spec(kind: str, context: Any) -> Callable[[Any], None]:
    def change(program: Any) -> None:
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        children = [{"type": None, "context": None, "children_spec": []}]
        signature["in_spec"] = json.dumps([1, {"type": kind, "context": context, "children_spec": children}])

    return change


def _config(folder: str, **entry: Any) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if name != f"data/{folder}/model_{folder}_config.json":
            return content
        config = json.loads(content)
        first = next(iter(config["config"].values()), {"is_param": False, "tensor_meta": None})
        config["config"]["0.weight"] = {**first, **entry}
        return json.dumps(config).encode()

    return change


def archives(source: Path, folder: Path, mark: Path) -> dict[str, Path]:
    """Altered archives of torch.export."""
    code = f"__import__('os').mkdir({str(mark)!r})"
    bomb, plain = saved(Marks(mark)), pickle.dumps(Marks(mark))
    symbol = next(iter(_symbols(source)))
    aten = "torch.ops.aten"

    def at(name: str) -> Path:
        return folder / f"{name}.pt2"

    def member(name: str, content: bytes) -> Callable[[str, bytes], bytes]:
        return lambda each, old: content if each == name else old

    enum = json.dumps({"__enum__": True, "fqn": "antigravity:x", "name": "y"})
    factory = {"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": []}
    programs = {
        "expression": _texts(symbol, code),
        "expression-by-attribute": _texts(symbol, f"Symbol('s0').__class__({code!r})"),
        "input-name": _input_named(f"input={code}"),
        "node-name": _texts("linear", f"linear\n    {code}"),
        "parameter-name": _texts("0.weight", f'0.weight"); {code}; ("'),
        "os-system": _calls("torch.os.system", f"mkdir {mark}"),
        "load-library": _calls("torch.ops.load_library", str(mark)),
        "attribute-getter": _calls("_operator.attrgetter", "__class__"),
        "method-caller": _calls("_operator.methodcaller", "numpy"),
        "file-map": _calls(f"{aten}.from_file.default", str(mark)),
        "file-write": _calls(f"{aten}.save.default", str(mark)),
        "hub": _calls("torch.hub.load", "owner/name", "model"),
        "default-factory": _spec("collections.defaultdict", factory),
        "enumeration": _spec("builtins.dict", enum),
        "guards": lambda program: {**program, "guards_code": [code]},
    }
    made = {name: with_program(source, at(name), change) for name, change in programs.items()}
    made |= {
        "sample-inputs": rewritten(source, at("sample-inputs"), member("data/sample_inputs/model.pt", bomb)),
        "old-weights": rewritten(source, at("old-weights"), added={"ROOT/data/weights/model.pt": bomb}),
        "old-constants": rewritten(source, at("old-constants"), added={"ROOT/data/constants/model.pt": bomb}),
        "pickled-weight": rewritten(
            source,
            at("pickled-weight"),
            _config("weights", path_name="weight_99", use_pickle=True),
            {"ROOT/data/weights/weight_99": bomb},
        ),
        "own-object": rewritten(
            source,
            at("own-object"),
            _config("constants", path_name="opaque_obj_0", use_pickle=True),
            {"ROOT/data/constants/opaque_obj_0": plain},
        ),
        "script-object": rewritten(
            source,
            at("script-object"),
            _config("constants", path_name="custom_obj_0", use_pickle=True),
            {"ROOT/data/constants/custom_obj_0": plain},
        ),
        "native": rewritten(source, at("native"), added={"ROOT/data/aotinductor/model/x.so": b"\x7fELF"}),
        "outside": rewritten(source, at("outside"), added={f"ROOT/../../{mark.name}": b"x"}),
        "absolute": rewritten(source, at("absolute"), added={str(mark): b"x"}),
        "drive": rewritten(source, at("drive"), added={"C:\\mark": b"x"}),
        "twice": rewritten(source, at("twice"), added={"ROOT/models/model.json": b"{}"}),
    }
    return made


def _symbols(source: Path) -> set[str]:
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            found.update(text for key, text in value.items() if key == "expr_str")
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(part)

    with zipfile.ZipFile(source) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        walk(json.loads(archive.read(name)))
    return found


def others(folder: Path, mark: Path) -> dict[str, Path]:
    """Pickles and TorchScript."""
    bomb = Marks(mark)
    state = network().state_dict()
    contents = {
        "model.pt": saved(bomb),
        "legacy.pt": saved(bomb, zipped=False),
        "state.pth": saved({**state, "0.weight": bomb}),
        "checkpoint.ckpt": saved({"state_dict": state, "hyper": bomb}),
        **{f"protocol{protocol}.pkl": pickle.dumps(bomb, protocol) for protocol in range(6)},
        "renamed.safetensors": saved(bomb),
        "renamed.pt2": pickle.dumps(bomb),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Writes(str(mark))), folder / "script.pt")
    return {name: folder / name for name in (*contents, "script.pt")}


class Writes(nn.Module):
    """TorchScript that writes a file, with PyTorch's own operator."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.mark = mark
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        torch.ops.aten.save(x, self.mark)
        return self.head(x.mean((2, 3)))


def cleared(mark: Path) -> bool:
    """Whether the mark was made; it is gone afterwards."""
    found = mark.exists()
    with contextlib.suppress(OSError):
        mark.rmdir() if mark.is_dir() else mark.unlink()
    return found
