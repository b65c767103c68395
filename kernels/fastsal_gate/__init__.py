"""The kernel gate, and the kernels ahead of time for the native build: what needs Triton and no GPU.

Part of the repository, not of the installed package. ``python -m fastsal_gate`` is the gate; CMake runs ``python -m
fastsal_gate.embed``. The folder ``kernels`` has to be on the path, as it is after an editable installation.
"""

ARCHITECTURES = (80, 90, 100, 120)
"""What is compiled for, unless told otherwise."""
