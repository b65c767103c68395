"""One call for all methods: prediction and maps, as one record; explainers compiled for inputs of one shape."""

from fastsal.explanation.compiled import Compiled, Explained, check_fixed, compile, explained
from fastsal.explanation.explaining import explain
from fastsal.explanation.explanation import Explanation

__all__ = ["Compiled", "Explained", "Explanation", "check_fixed", "compile", "explain", "explained"]
