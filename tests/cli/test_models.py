"""The command line with models of people's own: classes, weights, what an output says, and no network."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from fastsal import models
from fastsal.models import network
from fastsal.models.weights import listed
from tests.cli.conftest import Command
from tests.cli.made import made

__all__ = ["made"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def explained(fastsal: Command, image: Path, tmp_path: Path) -> Any:
    """The facts of the image, and the command's result, for further arguments."""

    def run(*arguments: object) -> Any:
        plain = ("--size", 16, "--mean", 0, "--std", 1, "--method", "saliency", "--out", tmp_path / "out")
        result = fastsal("explain", image, *plain, "--json", *arguments)
        assert result.code == 0, result.err
        return result.document

    return run


def network_of(classes: int, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))


def test_the_number_of_classes_is_told(explained: Any, fastsal: Command, made: str, image: Path) -> None:
    document = explained("--model", f"{made}:net", "--classes", 7, "--target", 6)
    assert document["images"][0]["target"]["index"] == 6
    result = fastsal("explain", image, "--model", f"{made}:labels", "--classes", 7, "--size", 16, "--out", "o")
    assert result.code == 2
    assert "--classes 7: the model has 5 outputs; a callable that takes num_classes is given it" in result.err


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_the_weights_tell_classes_and_names(explained: Any, made: str, tmp_path: Path, suffix: str) -> None:
    names, own = ["cat", "dog", "cow"], network_of(3)
    path = tmp_path / f"w.{suffix}"
    if suffix == "pt":
        torch.save({"state_dict": own.state_dict(), "class_to_idx": {name: i for i, name in enumerate(names)}}, path)
    else:
        save_file(own.state_dict(), path, {"class_names": json.dumps(names)})
    document = explained("--model", f"{made}:net", "--weights", path)
    (found,) = document["images"]
    pixels = models.Preprocess((16, 16), (0.0,), (1.0,))(models.read_image(tmp_path / "a.png"))[None]
    expected = own(pixels).softmax(1)[0].detach()
    assert found["prediction"]["index"] == int(expected.argmax())
    assert found["prediction"]["probability"] == pytest.approx(float(expected.max()), abs=1e-6)
    assert found["prediction"]["name"] == names[int(expected.argmax())]


def test_weights_for_another_model_are_still_refused(fastsal: Command, made: str, image: Path, tmp_path: Path) -> None:
    """A number of classes explains a head alone."""
    own = network_of(5).state_dict()
    save_file({**own, "0.weight": torch.zeros(9, 3, 3, 3), "0.bias": torch.zeros(9)}, tmp_path / "w.safetensors")
    result = fastsal("explain", image, "--model", f"{made}:net", "--weights", tmp_path / "w.safetensors")
    assert result.code == 2
    assert "do not fit the model: " in result.err


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("names.txt", "\ufeffcat\ndog\n\n", ("cat", "dog")),
        ("list.json", '["cat", "dog"]', ("cat", "dog")),
        ("index.json", '{"1": "dog", "0": "cat"}', ("cat", "dog")),
        ("torchvision.json", '{"cat": 0, "dog": 1}', ("cat", "dog")),
        ("holes.json", '{"0": "cat", "2": "dog"}', None),
        ("empty.txt", "\n", None),
        ("deep.json", "[" * 100_000, None),
        ("other.json", "[1, 2]", None),
    ],
)
def test_names_of_classes(
    explained: Any,
    fastsal: Command,
    made: str,
    image: Path,
    tmp_path: Path,
    name: str,
    text: str,
    expected: tuple[str, ...] | None,
) -> None:
    (tmp_path / name).write_text(text)
    if expected is None:
        result = fastsal("explain", image, "--model", f"{made}:net", "--classes", name, "--out", "o")
        assert (result.code, len(result.err.splitlines())) == (2, 1)
        return
    found = explained("--model", f"{made}:net", "--classes", name)["images"][0]["prediction"]
    assert found["name"] == expected[found["index"]]


def test_names_must_be_the_outputs(fastsal: Command, image: Path, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    for option in ("--class-names", "--classes"):
        result = fastsal("explain", image, option, tmp_path / "two.txt", "--out", tmp_path / "out")
        assert result.code == 2
        assert "there are 2 names of classes, and the model has 10 outputs" in result.err


def test_lists_of_names() -> None:
    assert listed(["a"]) == ("a",)
    for other in (None, 3, {}, {"a": "b"}, {0: 1}, [1], {"a": 0, "b": 0}):
        assert listed(other) is None


def test_random_weights_for_the_control(explained: Any, made: str, tmp_path: Path) -> None:
    """They differ from the model's own, are the same each time, and a file's are not mixed with them."""
    maps = []
    for arguments in ((), ("--untrained",), ("--untrained",)):
        document = explained(*arguments)
        maps.append(np.load(document["images"][0]["methods"]["saliency"]["map"]))
        assert document["weights"] == ("random" if arguments else None)
    assert np.array_equal(maps[1], maps[2])
    assert not np.allclose(maps[0], maps[1])


def test_what_has_no_way_to_draw_weights_has_them_shuffled(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.arange(24.0).reshape(4, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) @ self.scale[:3]

    torch.export.save(torch.export.export(Own(), (torch.rand(1, 3, 8, 8),)), tmp_path / "own.pt2")
    plain, control = (models.load(str(tmp_path / "own.pt2"), device="cpu", untrained=each) for each in (False, True))
    (before,), (after,) = (list(each.model.parameters()) for each in (plain, control))
    assert not torch.equal(before, after)
    assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)


def test_untrained_and_weights_exclude_each_other(fastsal: Command, image: Path, tmp_path: Path) -> None:
    save_file(network_of(5).state_dict(), tmp_path / "w.safetensors")
    result = fastsal("explain", image, "--untrained", "--weights", tmp_path / "w.safetensors")
    assert result.code == 2
    assert "untrained: the model has either the weights of a file or random ones" in result.err


@pytest.mark.parametrize(
    ("model", "ends_in"),
    [
        ("net", ""),
        ("soft", "softmax"),
        ("log_soft", ""),
        ("labels", "sigmoid"),
        ("single", ""),
        ("single_sigmoid", "sigmoid"),
    ],
)
def test_what_an_output_says(explained: Any, made: str, tmp_path: Path, model: str, ends_in: str) -> None:
    """Probabilities are told once: not the softmax of a softmax, nor of one number."""
    (found,) = explained("--model", f"{made}:{model}")["images"]
    loaded = models.load(f"{made}:{model}", device="cpu", size=(16, 16), mean=(0.0,), std=(1.0,))
    output = loaded.model(loaded.inputs([models.read_image(tmp_path / "a.png")]))[0].detach().double()
    if ends_in:
        expected = output
    elif model == "single":
        expected = output.sigmoid()
    else:
        expected = output.softmax(0)
    assert found["ends_in"] == ends_in
    assert found["prediction"]["probability"] == pytest.approx(float(expected[found["prediction"]["index"]]), abs=1e-5)


def test_two_names_of_one_output_are_its_sides(explained: Any, made: str, tmp_path: Path) -> None:
    (tmp_path / "sides.txt").write_text("benign\nmalignant\n")
    (found,) = explained("--model", f"{made}:single", "--class-names", "sides.txt")["images"]
    loaded = models.load(f"{made}:single", device="cpu", size=(16, 16), mean=(0.0,), std=(1.0,))
    output = loaded.model(loaded.inputs([models.read_image(tmp_path / "a.png")])).detach()
    probability = float(output.sigmoid())
    assert found["prediction"]["name"] == ("malignant" if probability > 0.5 else "benign")
    assert found["prediction"]["probability"] == pytest.approx(max(probability, 1 - probability), abs=1e-5)


def test_perturbations_of_probabilities_are_not_squashed_again(explained: Any, made: str, tmp_path: Path) -> None:
    """RISE of a model with its softmax is RISE of the same without, whose softmax is taken."""
    arguments = ("--method", "rise", "-O", "n_masks=20")
    maps = []
    for model in ("soft", "log_soft"):  # the softmax of a logarithm of a softmax is that softmax
        document = explained("--model", f"{made}:{model}", *arguments)
        maps.append(np.load(document["images"][0]["methods"]["rise"]["map"]))
    np.testing.assert_allclose(*maps, rtol=1e-4, atol=1e-6)


def test_what_the_model_is_given_is_told(fastsal: Command, made: str, image: Path) -> None:
    result = fastsal("explain", image, "--model", f"{made}:net", "--size", "16x24", "--std", "0.5", "--out", "o")
    assert result.code == 0
    assert "input 16x24 (crop 0.875, bilinear), mean 0.485,0.456,0.406, std 0.5 (--size, --mean and --std" in result.err


def test_no_network(monkeypatch: pytest.MonkeyPatch, refused: Any, image: Path) -> None:
    """At once, with the model's name and what works; what hangs is not waited for."""

    def hang(*arguments: Any) -> Any:
        time.sleep(10)
        raise OSError("timed out")

    monkeypatch.setattr(network.socket, "create_connection", hang)
    began = time.monotonic()
    cannot = r"^timm:resnet50 is not in the cache and huggingface\.co cannot be reached"
    with pytest.raises(ValueError, match=cannot), network.fetching("timm", "resnet50", network.hub()):
        raise OSError("no route\nand more")
    assert time.monotonic() - began < 3
    works = r"give --weights FILE, or --untrained for random weights: no route$"
    with pytest.raises(ValueError, match=works), network.fetching("torchvision", "resnet50", "weights.example"):
        raise OSError("no route\nand more")
    with network.fetching("hf", "cached", network.hub()):
        pass


def test_the_network_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import socket

    monkeypatch.setattr(network, "reachable", lambda host: False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with network.fetching("hf", "a/b", "hub.example"):
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        assert socket.getdefaulttimeout() == network.SECONDS
    assert "HF_HUB_OFFLINE" not in os.environ
    assert socket.getdefaulttimeout() is None


def test_another_head_on_pretrained_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be random, and so would its maps be."""
    from fastsal.models import loading

    def zoo(name: str, pretrained: bool, classes: int | None) -> Any:
        return network_of(classes or 4), models.Preprocess(), tuple("abcd") if classes in (None, 4) else None

    monkeypatch.setitem(loading._ZOO, "timm", zoo)
    with pytest.raises(
        ValueError, match=r"timm:tiny is trained for 4 classes, so that with 5 its last layer would be random"
    ):
        models.load("timm:tiny", device="cpu", classes=5)
    assert models.load("timm:tiny", device="cpu", classes=4).class_names == tuple("abcd")
    loaded = models.load("timm:tiny", device="cpu", classes=5, untrained=True)
    assert (loaded.classes, loaded.class_names) == (5, None)
    assert loaded.model[-1].out_features == 5
