"""Calls whose results are kept bit for bit from one commit to the next: see :mod:`tools.recorded_calls`.

They use public names only and run on older code too: :mod:`tools.recorded.spelling` says what was renamed.
"""
