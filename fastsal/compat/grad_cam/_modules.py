"""pytorch-grad-cam's names of modules: one for each class there, a few for all here."""

from __future__ import annotations

import sys

from fastsal.compat.grad_cam import composed, full_grad, methods, perturbing
from fastsal.compat.grad_cam.metrics import arcc

MODULES = {
    methods: "grad_cam hirescam grad_cam_elementwise grad_cam_plusplus xgrad_cam layer_cam eigen_cam eigen_grad_cam "
    "kpca_cam random_cam seg_eigen_cam shapley_cam fem",
    perturbing: "ablation_cam score_cam",
    composed: "finer_cam refine_cam",
    full_grad: "fullgrad_cam",
}


def add_modules(package: str) -> None:
    """Let ``import package.name`` find the module that has what pytorch-grad-cam has under that name."""
    for module, names in MODULES.items():
        for name in names.split():
            sys.modules[f"{package}.{name}"] = module
            setattr(sys.modules[package], name, module)
    # As its README spells it.
    sys.modules[f"{package}.metrics.ARCC"] = arcc
