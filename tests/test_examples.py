"""The examples in docstrings run, in a namespace with a small classifier, two images and a small language model."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from typing import Any

import pytest
import torch

import fastsal
from fastsal.explainers.registry import registered
from tests.explainers.languages import language_model
from tests.explainers.networks import image, small

CLASSES = [*registered(), fastsal.LimeBase]


def namespace() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "fastsal": fastsal,
        "torch": torch,
        "model": small(),
        "images": image(batch=2),
        "classes": torch.tensor([1, 3]),
        "language_model": language_model,
    }


def run(name: str, text: str) -> int:
    """How many examples there are; they must not fail."""
    found = doctest.DocTestParser().get_doctest(text, namespace(), name, name, 0)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failed, attempted = runner.run(found, out=told.append)
    assert not failed, "".join(told)
    return attempted


@pytest.mark.parametrize("explainer", CLASSES, ids=lambda each: each.__name__)
def test_every_explainer_has_an_example_that_runs(explainer: Any) -> None:
    text = inspect.getdoc(explainer) or ""
    if explainer.reads == "attention":
        pytest.importorskip("torch")
    assert run(explainer.__name__, text)


MODULES = [
    module.name
    for room in ("explainers", "explanation", "metrics", "engine.prepare", "engine.reading", "ops", "deploy")
    for module in pkgutil.walk_packages(importlib.import_module(f"fastsal.{room}").__path__, f"fastsal.{room}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_other_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    texts = {name: module.__doc__ or ""}
    for key, value in vars(module).items():
        if getattr(value, "__module__", None) != name or value in CLASSES:
            continue
        texts[f"{name}.{key}"] = inspect.getdoc(value) or ""
        if inspect.isclass(value):
            for member, function in vars(value).items():
                function = getattr(function, "__func__", function)
                if inspect.isfunction(function):
                    texts[f"{name}.{key}.{member}"] = inspect.getdoc(function) or ""
    for key, text in texts.items():
        if ">>>" in text:
            run(key, text)
