"""The first minutes with a GPU: what it is, whether the kernels are right on it, how long each op takes.

``python -m tools.gpu_check --out DIR`` runs the stages one after another, each in a process of its own. A stage appends
each row to ``DIR/results.jsonl`` when it has it, so that what ends early leaves what it found. ``--rehearse`` runs the
same code on the CPU with tiny sizes.
"""
