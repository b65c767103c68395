"""What features contribute on the average over the orders in which they join."""
