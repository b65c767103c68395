"""What incremental inference is asked for, in the caller's terms: changes of an image, and scores of outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from fastsal.engine.run import ChunkSizes

Gather = Callable[..., Tensor]


class Changes(Protocol):
    """Changes of images [B, C, H, W] in one place each, P of each image."""

    @property
    def rectangles(self) -> Tensor:
        """[P, 4], int64, on the CPU: top, bottom, left and right of each, the ends excluded."""

    @property
    def altered(self) -> Callable[[int, Tensor, Tensor, tuple[int, int]], Tensor]:
        """(example, positions [n], starts [n, 2], size) into those parts of the changed example, [n, C, *size]."""


class Scorer(Protocol):
    """Reads scores off the model's outputs.

    Attributes:
        clean: scores of the images as they are, flat.
        shared: whether the output's rows are not the examples.
        additional: further arguments of the model.
    """

    clean: Tensor
    shared: bool
    additional: tuple[Any, ...]

    def chunk_sizes(self, total: int) -> ChunkSizes:
        """Chunk sizes of a plain sweep over so many changes."""

    def alone(self) -> str:
        """Why changed inputs must be run one at a time; empty where they need not."""

    def output_of(self, rows: Tensor) -> Any:
        """The model's output for rows of the one input."""

    def of_rows(self, output: Any, count: int, example: int) -> Tensor:
        """Scores [count, outputs of an example] of an output whose rows are changed copies of one example."""


@dataclass(frozen=True)
class Asked:
    """Scores of changed images.

    Attributes:
        forward_func: module or callable.
        inputs: tensors [B, ...], detached; one image tensor [B, C, H, W] where it can be done.
        scorer: of the plain sweep.
        changes: makes the changes of the one image tensor.
        gather: the op ``patches.gather``.
        rows: changed images per call, chosen when None.
        name: of the method, for people.
        show_progress: show a bar.
    """

    forward_func: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    scorer: Scorer
    changes: Callable[[], Changes]
    gather: Gather
    rows: int | None = None
    name: str = ""
    show_progress: bool = False
