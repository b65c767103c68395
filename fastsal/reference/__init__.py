"""What each op means, in plain PyTorch.

These functions are the specification: the Triton kernels are tested against them, every derivative of an op is the
derivative of its reference, and they are what runs on devices without a kernel. They accept float64.
"""
