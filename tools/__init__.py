"""Scripts of the repository, run as ``python -m tools.NAME``; no part of the installed package."""
