"""Explainers that read a transformer's attention."""
