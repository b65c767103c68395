"""Explainers made of the output's gradient by the input."""
