"""Explainers that read activations, or send them back to the input."""
