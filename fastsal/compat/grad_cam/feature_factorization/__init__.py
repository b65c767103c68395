"""pytorch-grad-cam's factorisation of a layer under its own module name."""
