"""Tests on a CUDA device; ``FASTSAL_REHEARSE=1`` runs those that can on the CPU instead, so that they are right before
there is a card."""

from __future__ import annotations

import os

import pytest
import torch

REHEARSE = os.environ.get("FASTSAL_REHEARSE") == "1"


@pytest.fixture
def device() -> torch.device:
    """The CUDA device, or the CPU in a rehearsal."""
    if REHEARSE:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda")
