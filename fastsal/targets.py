"""Targets that are no index: what a score is for segmentation, detection, embeddings, and other classifiers.

One of these, or a list with one per example, goes where a target goes. A function of your own does too, in such a list:
it gets an example's part of the model's output and returns one number as a tensor.
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
