"""fastsal's Triton device code: one module an op, each with its kernels and the functions that launch them.

A launching function takes the result to fill, then the op's arguments; it checks nothing, which is the op's part.
"""
