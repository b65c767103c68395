"""To a layer: explainers of other families applied to a layer's value."""
