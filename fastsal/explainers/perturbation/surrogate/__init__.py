"""A linear model of the score on which features are present."""
