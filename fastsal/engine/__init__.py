"""How a model is run: each room is imported by its name."""
