"""A part of the input is replaced, and the score watched."""
