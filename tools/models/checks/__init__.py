"""The cells' checks, by the names of the methods, in the order of the table."""

from collections.abc import Callable

from tools.models.checks import cams, gradients, passing, running, sweeps, wrapping
from tools.models.subject import Subject

METHODS: dict[str, Callable[[Subject], str]] = {
    "saliency": gradients.saliency,
    "integrated-gradients": gradients.integrated_gradients,
    "grad-cam": cams.grad_cam,
    "layer-cam": cams.layer_cam,
    "eigen-cam": cams.eigen_cam,
    "occlusion": sweeps.occlusion,
    "incremental": sweeps.incremental,
    "rise": sweeps.rise,
    "prepare": running.prepare,
    "guided-backprop": gradients.guided_backprop,
    "deep-lift": gradients.deep_lift,
    "lrp": passing.lrp,
    "ablation-cam": cams.ablation_cam,
    "le-grad": passing.le_grad,
    "compile": running.compiled,
    "wrapped: compiled": wrapping.compiled,
    "wrapped: parallel": wrapping.parallel,
    "wrapped: bfloat16": wrapping.bfloat16,
    "wrapped: float16": wrapping.float16,
    "wrapped: quantised": wrapping.quantised,
    "wrapped: patched": wrapping.patched,
    "export": running.export,
    "package": running.package,
}
ROUNDS = (
    tuple(
        name for name in METHODS if name not in ("incremental", "ablation-cam", "export", "package") and ":" not in name
    ),
    tuple(name for name in METHODS if name in ("incremental", "ablation-cam", "export") or ":" in name),
    ("package",),
)
"""Every architecture runs the first before any runs the second. Compiling a package of C++ takes longer than all
others together."""
