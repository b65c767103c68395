"""Random masks, weighed by the scores that they leave."""
