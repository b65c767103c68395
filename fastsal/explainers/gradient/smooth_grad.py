"""SmoothGrad: the gradient of noisy inputs, averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastsal.explainers.arguments import Given, Inputs
from fastsal.explainers.base import Estimating, GradientAttribution, attribution, describe
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.noise_tunnel import NOISE, NoiseTunnel, spread_of
from fastsal.explainers.gradient.saliency import Saliency
from fastsal.explainers.scores import Target


class SmoothGrad(Estimating, GradientAttribution):
    """Smilkov, Thorat, Kim, Viégas, Wattenberg, "SmoothGrad: removing noise by adding noise" (2017), section 3.

    The shorthand of ``NoiseTunnel(Saliency(forward_func))``, with the paper's noise level. Costs n_samples forward and
    backward passes per example; memory does not grow with n_samples.

    >>> maps = fastsal.SmoothGrad(model).attribute(images, target=classes, n_samples=20)

    Args:
        forward_func: module or callable.
    """

    summary = "gradient averaged over noisy inputs"
    cost = "n_samples forward, n_samples backward"
    per_call = "perturbations_per_eval"
    fixed = exportable = True

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        super().__init__(forward_func)
        self._tunnel = NoiseTunnel(Saliency(forward_func))

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        abs: bool = True,
        additional_forward_args: Any = None,
        *,
        n_samples: int = 50,
        noise_level: float = NOISE,
        stdevs: Any = None,
        seed: int | None = 0,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        create_graph: bool = False,
        allow_unused: bool = False,
    ) -> Call[Any]:
        """Attribution in the form, shapes and dtypes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            target: which output to explain, one for all or one per example.
            abs: average the gradient's absolute value; the signed gradient otherwise.
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            n_samples: draws of noise.
            noise_level: standard deviation of the noise, as a share of each example's range (max - min).
            stdevs: standard deviation in the input's units, in place of noise_level: a number, a tensor that
                broadcasts to the input, or a tuple of these, one per input.
            seed: chooses the noise; None draws it from torch's global generator.
            perturbations_per_eval: draws per model call; chosen from memory when None.
            show_progress: show a bar.
            create_graph: keep the graph, so that the attribution can be trained through; memory grows with n_samples.
            allow_unused: give zeros, with a warning, for an input that the target does not use in any way. One that it
                uses in ways without a gradient is an error always.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        if stdevs is None:
            stdevs = tuple(noise_level * spread_of(tensor) for tensor in Given(inputs).tensors)
        return describe(
            self._tunnel,
            inputs,
            nt_samples=n_samples,
            nt_samples_batch_size=perturbations_per_eval,
            stdevs=stdevs,
            seed=seed,
            show_progress=show_progress,
            target=target,
            abs=abs,
            additional_forward_args=additional_forward_args,
            create_graph=create_graph,
            allow_unused=allow_unused,
        )
