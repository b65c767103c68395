"""An input that no gradient reaches is an error, not a map of zeros, from which nobody sees that it matters."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.engine.reading import Unrelated
from fastsal.explainers.reached import Unreached
from tests.explainers.calls import CALLS, GRADIENT, MODULE, PERTURBATION
from tests.explainers.networks import image, small, unchanged

BY_INPUT = [*GRADIENT, "guided", "deconvolution", "guided-gradcam", "full-grad", "deep-lift", "deep-lift-shap"]
"""Methods of a gradient by the inputs that meet any function."""


class Cut(nn.Module):
    """A network whose input passes something that has no gradient."""

    def __init__(self, cut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.cut = small(), cut
        self.stem = nn.Conv2d(3, 3, 1)

    @property
    def last(self) -> nn.Module:
        return self.net.last

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(self.cut(self.stem(x)))
        return found


def without_graph(x: Tensor) -> Tensor:
    with torch.no_grad():
        return 2 * x


def by_inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return 2 * x


def by_integers(x: Tensor) -> Tensor:
    """As a quantised layer computes: integer weights and activations, and a scale."""
    weight = torch.eye(3, dtype=torch.int8).float().round()
    return torch.einsum("oc,bchw->bohw", weight, (x * 16).to(torch.int8).float()) / 16


CUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "no_grad": without_graph,
    "detach": lambda x: x.detach(),
    "cast": lambda x: (x * 8).long().float(),
    "integers": by_integers,
    "numpy": lambda x: torch.from_numpy(np.tanh(x.numpy())),
    "numpy of detached": lambda x: torch.from_numpy(np.tanh(x.detach().numpy())),
    "inference": by_inference,
}


@pytest.mark.parametrize("name", BY_INPUT)
@pytest.mark.parametrize("cut", ["no_grad", "numpy"])
def test_no_way_is_an_error(name: str, cut: str) -> None:
    model, x = Cut(CUTS[cut]).eval().requires_grad_(name != "ig"), image()
    assert CALLS["feature-ablation"](model, x).abs().max() > 0
    with unchanged(model, x), pytest.raises(ValueError, match=r"inputs: .*autograd .*FeatureAblation, Occlusion"):
        CALLS[name](model, x)


@pytest.mark.parametrize("cut", CUTS)
def test_whatever_cuts_it(cut: str) -> None:
    model, x = Cut(CUTS[cut]).eval(), image()
    for name in ("saliency", "ig"):
        with pytest.raises(Unreached, match="LayerIntegratedGradients"):
            CALLS[name](model, x)
    with pytest.raises(Unreached, match="not unused, as other values change the target"):
        fastsal.Saliency(model).attribute(x, 1, allow_unused=True)
    for name in PERTURBATION:
        assert CALLS[name](model, x).isfinite().all()
    # Behind the cut there is a way.
    assert fastsal.LayerGradCam(model, "net.last").attribute(x, 1).any()


def test_relevance_too() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 7, 4)).eval()

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                hidden = self.model[:2](x)
            found: Tensor = self.model[2:](hidden)
            return found

    with pytest.raises(Unreached, match="inputs: the target does not depend on it through autograd"):
        fastsal.LRP(Frozen().eval()).attribute(image(), target=1)


def test_the_path_behind_the_first_layer_begins_where_a_gradient_arrives() -> None:
    """The layer is affine in what it gets, and reads nothing else, but what it gets is cut from the input."""
    for cut in (lambda x: x.detach(), lambda x: torch.from_numpy(x.detach().numpy().copy())):
        net = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3)).eval()

        class Model(nn.Module):
            def __init__(self, net: nn.Module = net, cut: Any = cut) -> None:
                super().__init__()
                self.net, self.cut = net, cut

            def forward(self, x: Tensor) -> Tensor:
                found: Tensor = self.net(self.cut(x))
                return found

        for once in (False, "auto"):
            with pytest.raises(Unreached):
                fastsal.IntegratedGradients(Model()).attribute(torch.rand(2, 20), target=1, first_layer_once=once)


class WideAndDeep(nn.Module):
    """Ids as floats, a table of them, numbers beside them, and an input that is of no use."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(10, 4), nn.Linear(6, 2)

    def forward(self, ids: Tensor, numbers: Tensor, spare: Tensor) -> Tensor:
        found: Tensor = self.head(torch.cat([self.table(ids.long()).mean(1), numbers], 1))
        return found


def wide() -> tuple[WideAndDeep, tuple[Tensor, Tensor, Tensor]]:
    torch.manual_seed(0)
    return WideAndDeep().eval(), (torch.randint(1, 10, (2, 3)).float(), torch.rand(2, 2), torch.rand(2, 2))


PARTLY: dict[str, Callable[..., Any]] = {
    "Saliency": lambda m, x, **o: fastsal.Saliency(m).attribute(x, 0, **o),
    "InputXGradient": lambda m, x, **o: fastsal.InputXGradient(m).attribute(x, 0, **o),
    "IntegratedGradients": lambda m, x, **o: fastsal.IntegratedGradients(m).attribute(x, target=0, n_steps=5, **o),
    "SmoothGrad": lambda m, x, **o: fastsal.SmoothGrad(m).attribute(x, 0, n_samples=3, **o),
    "NoiseTunnel": lambda m, x, **o: fastsal.NoiseTunnel(fastsal.Saliency(m)).attribute(x, target=0, seed=0, **o),
    "GradientShap": lambda m, x, **o: fastsal.GradientShap(m).attribute(
        x, tuple(map(torch.zeros_like, x)), target=0, seed=0, **o
    ),
    "DeepLift": lambda m, x, **o: fastsal.DeepLift(m).attribute(x, target=0, **o),
    "DeepLiftShap": lambda m, x, **o: fastsal.DeepLiftShap(m).attribute(x, tuple(map(torch.zeros_like, x)), 0, **o),
    "GuidedBackprop": lambda m, x, **o: fastsal.GuidedBackprop(m).attribute(x, 0, **o),
    "Deconvolution": lambda m, x, **o: fastsal.Deconvolution(m).attribute(x, 0, **o),
}


@pytest.mark.parametrize("name", PARTLY)
def test_each_input_that_is_not_reached_is_named(name: str) -> None:
    model, x = wide()
    with pytest.raises(Unreached, match=r"^inputs\[0\], inputs\[2\]: .*additional_forward_args to explain the others"):
        PARTLY[name](model, x)
    # What is used without a gradient stays an error; what is not used at all is 0, and said to be.
    with pytest.raises(Unreached, match=r"^inputs\[0\]: not unused"):
        PARTLY[name](model, x, allow_unused=True)

    class Bound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, numbers: Tensor, spare: Tensor) -> Tensor:
            found: Tensor = self.model(x[0].repeat(len(numbers) // 2, 1), numbers, spare)
            return found

    with pytest.warns(UserWarning, match=r"inputs\[1\]: the target does not use it"):
        found = PARTLY[name](Bound().eval(), x[1:], allow_unused=True)
    assert found[0].abs().max() > 0
    assert not found[1].any()


def test_an_input_of_a_mapping_is_named_by_its_key() -> None:
    model, x = wide()
    named = dict(zip(("ids", "numbers", "spare"), x, strict=True))
    with pytest.raises(Unreached, match=r"^inputs\['ids'\], inputs\['spare'\]:"):
        fastsal.Saliency(model).attribute(named, 0)
    with pytest.raises(ValueError, match=r"inputs\['ids'\], inputs\['spare'\]:.*allow_unused=True"):
        fastsal.explain(model, named, "saliency")
    with pytest.raises(ValueError, match=r"inputs\['ids'\]: not unused"):
        fastsal.explain(model, named, "saliency", allow_unused=True)


def test_unused_is_found_out_of_random_models_and_of_grad_kwargs() -> None:
    def model(x: Tensor, spare: Tensor) -> Tensor:
        return torch.nn.functional.dropout(x, 0.5, training=True)

    x = torch.rand(2, 3), torch.rand(2, 3)
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=r"inputs\[1\]: the target does not use it"):
        found = fastsal.IntegratedGradients(model).attribute(x, target=0, grad_kwargs={"allow_unused": True})
    assert found[0].any()
    with pytest.raises(Unreached):
        fastsal.IntegratedGradients(model).attribute(x, target=0, grad_kwargs={"materialize_grads": False})


def test_small_values_that_a_cast_makes_equal_are_still_used() -> None:
    """All of [0, 1) is the same id; others are not."""
    table = nn.Embedding(3, 4)

    def model(x: Tensor, ids: Tensor) -> Tensor:
        return x + table(ids.long()).sum((1, 2))[:, None]

    with pytest.raises(Unreached, match=r"inputs\[1\]: not unused"):
        fastsal.Saliency(model).attribute((torch.rand(2, 3), torch.rand(2, 5)), 0, allow_unused=True)


class Two(nn.Module):
    """Two layers in a row, of which the target depends on the first alone, or on the second by its values."""

    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.detached = detached

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.first(x), self.second(x)
        hidden = first + second.detach() if self.detached else first
        found: Tensor = self.head(hidden.mean((2, 3)))
        return found


@pytest.mark.parametrize("detached", [False, True])
def test_one_of_several_layers_off_the_way_is_named(detached: bool) -> None:
    model, x = Two(detached).eval(), image()
    explainers: list[Any] = [
        lambda layers: fastsal.GradCAM(model, layers).attribute(x, 1),
        lambda layers: fastsal.LayerCAM(model, layers).attribute(x, 1),
        lambda layers: fastsal.SmoothGradCAMPlusPlus(model, layers).attribute(x, 1, n_samples=2, seed=0),
        lambda layers: fastsal.LayerGradientXActivation(model, layers).attribute(x, 1),
        lambda layers: fastsal.LayerIntegratedGradients(model, layers).attribute(x, target=1, n_steps=3),
    ]
    for explain in explainers:
        assert explain(["first"]) is not None
        with pytest.raises(ValueError, match=r"layer.*(second|\[1\]): the target does not depend on (its value|it)"):
            explain(["first", "second"])
    with pytest.raises(Unrelated):
        fastsal.GradCAM(model, "second").attribute(x, 1)


MATERIALIZED: dict[str, Callable[[nn.Module, Any, Tensor], Any]] = {
    "gradient": lambda model, layers, x: fastsal.LayerGradientXActivation(model, layers).attribute(
        x, 1, grad_kwargs={"allow_unused": True}
    ),
    "Grad-CAM": lambda model, layers, x: fastsal.LayerGradCam(model, layers[-1]).attribute(
        x, 1, grad_kwargs={"materialize_grads": True}
    ),
    "integrated gradients": lambda model, layers, x: fastsal.LayerIntegratedGradients(model, layers).attribute(
        x, target=1, n_steps=3, grad_kwargs={"materialize_grads": True}
    ),
    "conductance": lambda model, layers, x: fastsal.LayerConductance(model, layers).attribute(
        x, target=1, n_steps=3, grad_kwargs={"materialize_grads": True}
    ),
    "DeepLIFT": lambda model, layers, x: fastsal.LayerDeepLift(model, layers).attribute(
        x, target=1, grad_kwargs={"materialize_grads": True}
    ),
}


@pytest.mark.parametrize("name", MATERIALIZED)
@pytest.mark.parametrize("frozen", [False, True])
def test_zeros_for_a_layer_are_of_one_that_changes_nothing(name: str, frozen: bool) -> None:
    """What asks for zeros does not know why no gradient came."""
    x = image()
    for layers in (["second"], ["first", "second"]):
        model = Two(detached=False).eval().requires_grad_(not frozen)
        with pytest.warns(UserWarning, match=r"layer.*: the target does not (depend on|use) it"):
            found = MATERIALIZED[name](model, layers, x)
        assert not (found[-1] if isinstance(found, list) else found).any()
        with pytest.raises(ValueError, match=r"layer.*(not depend on its value|change the target)"):
            MATERIALIZED[name](Two(detached=True).eval().requires_grad_(not frozen), layers, x)


def test_a_part_of_a_layers_value_may_be_of_no_use() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(self.rnn(x)[0][:, -1])
            return found

    model, x = Recurrent().eval(), torch.randn(1, 5, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fastsal.LayerIntegratedGradients(model, "rnn").attribute(x, target=1, n_steps=4)
        again = fastsal.LayerGradientXActivation(model, "rnn").attribute(x, 1)
    assert found[0].any()
    assert again[0].any()


def test_attention_behind_which_nothing_is_differentiable() -> None:
    class Vision(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.attention = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patches(x).flatten(2).mT
            found: Tensor = self.head(self.attention(tokens, tokens, tokens)[0].detach().mean(1))
            return found

    for parameters in (True, False):
        model = Vision().eval().requires_grad_(parameters)
        with pytest.raises(ValueError, match=r"does not depend on its attention through autograd"):
            fastsal.LeGrad(model).attribute(torch.rand(2, 3, 16, 16), 1)


@pytest.mark.parametrize(
    "name", [name for name in MODULE if name not in BY_INPUT and not name.startswith("neuron") and "lrp" not in name]
)
def test_maps_of_layers_are_as_before(name: str) -> None:
    """Behind a cut there is a way from the layer to the target."""
    model, x = Cut(CUTS["no_grad"]).eval(), image()
    assert CALLS[name](model, x).isfinite().all()
