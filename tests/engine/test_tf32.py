"""TF32: what reads the process's settings, what changes them for a pass, and what is compared under them.

Without a GPU its products are emulated: operands are rounded to 10 bits, as the card does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.engine.prepare import precision
from fastsal.engine.prepare.precision import float32_arithmetic, tolerance
from fastsal.engine.run import difference, tf32_is_on

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 9), reason="PyTorch 2.9 has the settings of each operation")
CUDNN: Any = torch.backends.cudnn
MATMUL: Any = torch.backends.cuda.matmul
PLACES = (MATMUL, CUDNN.conv, CUDNN.rnn)
SETTINGS = {
    "as it comes": lambda: None,
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "the older flag": lambda: setattr(MATMUL, "allow_tf32", True),
    "none at all": lambda: setattr(CUDNN, "allow_tf32", False),
    "the newer of products": lambda: setattr(MATMUL, "fp32_precision", "tf32"),
    "the newer of convolutions": lambda: setattr(CUDNN.conv, "fp32_precision", "ieee"),
}


def older() -> list[Any]:
    """What a model or a library reads; "refused" where PyTorch does."""
    found: list[Any] = []
    for flag in (lambda: MATMUL.allow_tf32, lambda: CUDNN.allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(flag())
        except RuntimeError:
            found.append("refused")
    return found


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    before = [place.fp32_precision for place in PLACES]
    yield
    torch.set_float32_matmul_precision("highest")
    CUDNN.allow_tf32 = True
    for place, value in zip(PLACES, before, strict=True):
        place.fp32_precision = value


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_older_flags_are_readable_inside_and_all_is_as_it_was_after(setting: str) -> None:
    SETTINGS[setting]()
    before = [place.fp32_precision for place in PLACES], older()
    for wanted, flags in (("tf32", [True, True, "high"]), ("float32", [False, False, "highest"])):
        with float32_arithmetic(wanted, torch.device("cuda")):
            assert older() == flags
            assert {place.fp32_precision for place in PLACES} == {"tf32" if wanted == "tf32" else "ieee"}
        assert ([place.fp32_precision for place in PLACES], older()) == before


def test_it_is_asked_of_whichever_setting_the_process_uses() -> None:
    for place, value in zip(PLACES, ("ieee", "ieee", "ieee"), strict=True):
        place.fp32_precision = value
    assert not tf32_is_on()
    for place in PLACES:
        place.fp32_precision = "tf32"
        assert tf32_is_on()
        place.fp32_precision = "ieee"


def test_the_tolerance_is_that_of_the_arithmetic_which_runs() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert tolerance(None, cuda) == precision.TOLERANCES["tf32"]  # cuDNN's default
    assert tolerance(None, cpu) == tolerance("float32", cuda) == precision.TOLERANCES["float32"]
    CUDNN.conv.fp32_precision = CUDNN.rnn.fp32_precision = "ieee"
    assert tolerance(None, cuda) == precision.TOLERANCES[None]


def rounded(t: Tensor) -> Tensor:
    """To TF32's 10 bits."""
    return ((t.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def test_what_folding_changes_under_tf32_is_between_the_two_tolerances() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = folded = torch.randn(2, 3, 32, 32, generator=generator)
    for channels, out in ((3, 16), (16, 32), *[(32, 32)] * 8):
        weight = torch.randn(out, channels, 3, 3, generator=generator) / (9 * channels / 2) ** 0.5
        scale, bias = torch.rand(2, out, generator=generator)
        plain = F.conv2d(rounded(plain), rounded(weight), padding=1) * (scale + 0.5)[:, None, None]
        plain = (plain + bias[:, None, None]).relu()
        weight = weight * (scale + 0.5)[:, None, None, None]
        folded = F.conv2d(rounded(folded), rounded(weight), bias, padding=1).relu()
    apart = difference(folded.mean((2, 3)), plain.mean((2, 3)))
    assert tolerance(None, torch.device("cpu")) < apart < tolerance(None, torch.device("cuda")) / 10
