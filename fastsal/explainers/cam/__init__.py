"""The CAM family: maps of a layer's activations, one method a file."""
