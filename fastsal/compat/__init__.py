"""Other packages' names, for programs written for them."""
