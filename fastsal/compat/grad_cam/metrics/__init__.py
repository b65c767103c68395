"""pytorch-grad-cam's measures of maps under their own module names."""
