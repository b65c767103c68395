"""Targets that are no index: what a score is for segmentation, detection, embeddings, and other classifiers.

One of these, or a list with one per example, goes where a target goes. So does any object of your own with
``score(output)`` that returns one number per example, [B]; and in a list a function that gets an example's part of the
model's output and returns one number as a tensor.
"""

from fastsal.explainers.targets import (
    Binary,
    Boxes,
    ExampleTarget,
    Logit,
    LogProbability,
    Probability,
    Segmentation,
    Similarity,
)

__all__ = [
    "Binary",
    "Boxes",
    "ExampleTarget",
    "LogProbability",
    "Logit",
    "Probability",
    "Segmentation",
    "Similarity",
]
