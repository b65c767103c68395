"""An explanation leaves nothing behind, whatever a test here does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.callables import nothing_is_left


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    nothing_is_left()
