"""One call for all methods: prediction and maps, as one record; explainers compiled for inputs of one shape."""

from fastsal.explanation.compiled import Compiled, Explained, compile
from fastsal.explanation.explaining import explain
from fastsal.explanation.explanation import Explanation

__all__ = ["Compiled", "Explained", "Explanation", "compile", "explain"]
