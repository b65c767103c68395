"""The interface is what was agreed: a change of a public name or signature shows in tests/api_surface.json."""

from __future__ import annotations

import pytest
import torch

from tools import api_surface


@pytest.mark.skipif(torch.__version__ < (2, 11), reason="PyTorch's own classes had other annotations")
def test_the_interface_is_the_one_that_is_kept() -> None:
    found = "\n".join(api_surface.changes())
    assert not found, f"run python -m tools.api_surface if this is wanted:\n{found}"


def test_signatures_are_as_they_are_written() -> None:
    def made(value: int, *, name: str = "a", function: object = test_signatures_are_as_they_are_written) -> int:
        return value

    assert (
        api_surface.signature(made)
        == "(value: int, *, name: str = 'a', function: object = test_signatures_are_as_they_are_written) -> int"
    )
