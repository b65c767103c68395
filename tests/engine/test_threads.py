"""What a thread sets is its own: hooks, modes and flags; bystanders see nothing of it. One thread waits in its forward
while another does what it likes, so that nothing here depends on chance."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastsal
from fastsal._torch import len_torch_dispatch_stack, len_torch_function_stack
from fastsal.engine.reading.affine import Escapes
from fastsal.engine.reading.geometry.lineage import Lineage
from fastsal.engine.run import Bounds, Undone, evaluation, own
from tests.explainers.calls import CALLS
from tests.explainers.networks import Small, image, small, state

SECONDS = 60


class Meeting:
    """One thread waits at a place of its forward until what others do meanwhile is done."""

    def __init__(self) -> None:
        self.thread, self.left = 0, -1
        self.arrived = self.go = threading.Lock()

    def place(self) -> None:
        if threading.get_ident() != self.thread:
            return
        self.left -= 1
        if self.left == -1:
            self.arrived.release()
            assert self.go.acquire(timeout=SECONDS)

    @contextmanager
    def waiting(self, at: int, work: Callable[[], Any]) -> Iterator[list[Any]]:
        """Inside, a thread that does the work waits at a place, if it comes to it; afterwards its result is there."""
        found: list[Any] = []

        def run() -> None:
            self.thread, self.left = threading.get_ident(), at
            try:
                found.append(work())
            except BaseException as error:
                found.append(error)
            if self.left >= 0:
                self.arrived.release()

        self.arrived, self.go = threading.Lock(), threading.Lock()
        self.arrived.acquire()
        self.go.acquire()
        thread = threading.Thread(target=run)
        thread.start()
        assert self.arrived.acquire(timeout=SECONDS)
        try:
            yield found
        finally:
            self.go.release()
            thread.join(SECONDS)
            self.thread = 0


class Meets(nn.Module):
    """Passes its input on."""

    def __init__(self, meeting: Meeting) -> None:
        super().__init__()
        self.__dict__["meeting"] = meeting

    def forward(self, x: Tensor) -> Tensor:
        self.__dict__["meeting"].place()
        return x


class Meeter(Small):
    """A :class:`Small` that meets in its first half and in its second, where the mode shows."""

    def __init__(self, meeting: Meeting) -> None:
        super().__init__(dropout=0.5)
        self.early, self.late = Meets(meeting), Meets(meeting)

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(self.act(self.norm(self.stem(x))))
        x = self.late(self.last(self.body(x)))
        return self.head(self.drop(x.flatten(2).mean(2)))


def meeter(meeting: Meeting) -> Meeter:
    model = Meeter(meeting)
    model.load_state_dict(small().state_dict())
    return model.eval()


@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("name", CALLS)
def test_a_prediction_beside_an_explanation(name: str, at: int) -> None:
    """Of the same model, with its bits, without a graph under no_grad, and it leaves the explanation as it is."""
    meeting = Meeting()
    model, x, other = meeter(meeting), image(), image(seed=5)
    with torch.no_grad():
        right = model(other)
    expected = CALLS[name](model, x)
    with meeting.waiting(at, lambda: CALLS[name](model, x)) as found:
        with torch.no_grad():
            predicted = model(other)
        leaf = model(other)
    assert torch.equal(predicted, right)
    assert not predicted.requires_grad
    assert torch.equal(leaf, right)
    assert leaf.requires_grad
    assert torch.equal(found[0], expected), found


@pytest.mark.parametrize("name", CALLS)
def test_a_training_step_beside_an_explanation(name: str) -> None:
    """The step sees training mode throughout, and the statistics change by it alone."""
    meeting = Meeting()
    model, x, other = meeter(meeting), image(), image(seed=5)
    expected = CALLS[name](model, x)

    def step(trained: nn.Module) -> Tensor:
        torch.manual_seed(3)
        return trained(other)

    alone = meeter(Meeting()).train()
    right = step(alone)
    model.train()
    before = state(model)
    with meeting.waiting(1, lambda: CALLS[name](model, x)) as found:
        assert all(part.training for part in model.modules())
        got = step(model)
        assert all(part.training for part in model.modules())
    after = state(model)
    assert torch.equal(got, right)
    for key in ("training", "hooks", "forward", "requires_grad"):
        assert after[key] == before[key], key
    assert torch.equal(model.norm.running_mean, alone.norm.running_mean)
    if isinstance(found[0], BaseException):
        raise found[0]
    assert found[0].shape == expected.shape


def test_a_thread_that_switches_the_mode_meanwhile() -> None:
    """``train()`` in one thread is not undone by the end of another's explanation, nor ``eval()``."""
    for before, after in ((True, False), (False, True)):
        meeting = Meeting()
        model, x = meeter(meeting), image()
        model.train(before)
        with meeting.waiting(0, lambda model=model, x=x: fastsal.Saliency(model).attribute(x, target=1)):
            model.train(after)
        assert all(part.training is after for part in model.modules())


def test_a_model_that_switches_itself() -> None:
    """What a forward does with its own flags is what happens, in its thread; afterwards they are as they were."""

    class Samples(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small(dropout=0.5)

        def forward(self, x: Tensor) -> Tensor:
            self.inner.drop.train()
            seen.append((self.training, self.inner.norm.training, self.inner.drop.training))
            return self.inner(x)

    seen: list[Any] = []
    model = Samples().train()
    fastsal.Saliency(model).attribute(image(), target=1)
    assert set(seen) == {(False, False, True)}
    assert all(part.training for part in model.modules())


def test_hooks_of_the_user_run_in_other_threads() -> None:
    """What an explanation does without the user's hooks, to see whether they matter, it does alone."""
    meeting = Meeting()
    model, x = meeter(meeting), image(size=32)
    seen: list[int] = []
    model.norm.register_forward_hook(lambda *_: seen.append(threading.get_ident()))
    work = lambda: fastsal.Occlusion(model).attribute(x, (3, 4, 4), (3, 4, 4), target=1, incremental=True)  # noqa: E731
    expected = work()
    for at in range(0, 12, 3):
        with meeting.waiting(at, work) as found:
            seen.clear()
            model(x)
            assert threading.get_ident() in seen
        assert torch.equal(found[0], expected)
    assert [type(hook).__name__ for hook in model.norm._forward_hooks.values()] == ["function"]


def test_two_threads_with_an_answer_for_one_module() -> None:
    """Forwards that stand in for a module's are each thread's own, in whatever order they go."""
    meeting = Meeting()
    model, x, other = meeter(meeting), image(), image(seed=5)
    model.stem.forward = functools_partial(type(model.stem).forward, model.stem)
    own = model.stem.forward
    call = lambda x: fastsal.AblationCAM(model, model.last).attribute(x, target=1)  # noqa: E731
    right = call(x), call(other)
    for at in range(6):
        with meeting.waiting(at, lambda: call(x)) as found:
            assert torch.equal(call(other), right[1])
        assert torch.equal(found[0], right[0])
        assert vars(model.stem)["forward"] is own


def functools_partial(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    return lambda *more: function(*args, *more)


class Pooled(nn.Module):
    """Runs its branches in threads of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([small(dropout=0.5, seed=seed) for seed in range(2)])
        self.__dict__["pool"] = ThreadPoolExecutor(2)

    def forward(self, x: Tensor) -> Tensor:
        made = list(self.__dict__["pool"].map(lambda branch: branch(x), self.branches))
        return torch.stack(made).sum(0)


def test_a_model_that_runs_its_parts_in_threads_of_its_own() -> None:
    model, x = Pooled().eval(), image()
    expected = fastsal.Saliency(model).attribute(x, target=1)
    model.train()
    before = model.branches[0].norm.running_mean.clone()
    for _ in range(3):
        assert torch.equal(fastsal.Saliency(model).attribute(x, target=1), expected)
    assert torch.equal(model.branches[0].norm.running_mean, before)
    assert all(part.training for part in model.modules())


def test_a_callable_that_sends_its_inputs_to_another_thread() -> None:
    model, x = small(dropout=0.5), image()
    layer = model.last
    expected = fastsal.EigenCAM(model, layer).attribute(x)
    gradient = fastsal.Saliency(model).attribute(x, target=1)
    model.train()
    with ThreadPoolExecutor(1) as pool:
        forward = lambda x: pool.submit(model, x).result()  # noqa: E731
        for _ in range(2):
            assert torch.equal(fastsal.EigenCAM(forward, layer).attribute(x), expected)
            assert torch.equal(fastsal.Saliency(forward).attribute(x, target=1), gradient)
        # The thread is a bystander again.
        assert pool.submit(lambda: model.drop.training).result()


def test_a_thread_that_gets_what_was_made_of_the_inputs_is_told_of() -> None:
    model, x = small(dropout=0.5).train(), image()
    with ThreadPoolExecutor(1) as pool:
        explainer = fastsal.Saliency(lambda x: pool.submit(model, 2 * x).result())
        with pytest.warns(UserWarning, match="while a Small ran in training mode in another"):
            explainer.attribute(x, target=1)
        model.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = explainer.attribute(x, target=1)
    torch.testing.assert_close(found, 2 * fastsal.Saliency(model).attribute(2 * x, target=1))


def test_checkpointing_runs_in_the_explanations_mode() -> None:
    """The second run of a checkpointed part, in the backward pass, is of the explanation too."""

    class Checkpointed(Small):
        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.norm(self.stem(x)))
            x = checkpoint(lambda x: self.drop(self.last(self.body(x))), x, use_reentrant=False)
            return self.head(x.flatten(2).mean(2))

    model = Checkpointed(dropout=0.5)
    model.load_state_dict(small().state_dict())
    x = image()
    expected = fastsal.Saliency(model.eval()).attribute(x, target=1)
    assert torch.equal(fastsal.Saliency(model.train()).attribute(x, target=1), expected)


def test_training_flags_are_plain_again() -> None:
    model = small(dropout=0.5).train()
    fastsal.GradCAM(model).attribute(image(), target=1)
    assert "training" not in vars(nn.Module)
    with pytest.raises(AttributeError):
        nn.Module.training  # noqa: B018


MIXED = (
    "saliency",
    "ig",
    "gradcam",
    "gradcam-default",
    "AblationCAM",
    "layer-ig",
    "lrp",
    "occlusion",
    "rise",
    "deep-lift",
)


@pytest.mark.slow
def test_sixteen_threads_with_one_model() -> None:
    """Any mix of methods and predictions gives the bits of one thread, whatever mode the model is in."""
    model = small(dropout=0.5)
    images = [image(seed=seed) for seed in range(16)]
    right = {(name, i): CALLS[name](model, x) for name in MIXED for i, x in enumerate(images)}
    scores = [model(x).detach() for x in images]
    model.train()
    wrong: list[Any] = []

    def work(i: int) -> None:
        for turn in range(len(MIXED)):
            name = MIXED[(i + turn) % len(MIXED)]
            try:
                if not torch.equal(CALLS[name](model, images[i]), right[name, i]):
                    wrong.append((name, i))
                if not model.training:
                    wrong.append("mode")
            except BaseException as error:
                wrong.append((name, i, repr(error)))

    before, switch = state(model), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    after = state(model)
    assert not wrong, wrong[:5]
    for key in ("training", "hooks", "forward", "requires_grad"):
        assert after[key] == before[key], key
    assert torch.equal(model.eval()(images[0]), scores[0])


def test_a_buffer_that_a_layer_is_given_keeps_its_flag() -> None:
    """What is read at a layer's input may be the model's own tensor, which other threads use."""

    class Positions(nn.Module):
        def __init__(self, meeting: Meeting) -> None:
            super().__init__()
            self.register_buffer("places", torch.linspace(-1, 1, 4)[None])
            self.embed, self.head, self.meets = nn.Linear(4, 4), nn.Linear(4, 3), Meets(meeting)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x * self.meets(self.embed(self.places)))

    meeting = Meeting()
    model, x = Positions(meeting).eval(), torch.rand(1, 4)

    def work() -> Any:
        explainer = fastsal.LayerGradientXActivation(model, model.embed)
        return explainer.attribute(x, target=1, attribute_to_layer_input=True)

    with meeting.waiting(0, work) as found:
        assert not model.places.requires_grad
    weights = model.head.weight[1] * x
    expected = (weights @ model.embed.weight) * model.places
    torch.testing.assert_close(found[0], expected.detach())


def test_what_an_interrupted_end_leaves_open_is_closed() -> None:
    """Modes whose own end was interrupted, sessions, hooks and the grad mode."""
    model = small().train()
    dispatch, function = Lineage(), Escapes()

    def opened() -> None:
        evaluation(model).__enter__()
        Undone().__enter__().hook(model.stem, print)
        dispatch.__enter__()
        function.__enter__()
        torch.set_grad_enabled(False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Bounds():
        opened()
    assert len_torch_dispatch_stack() == len_torch_function_stack() == 0
    assert torch.is_grad_enabled()
    assert not model.stem._forward_hooks
    assert model.training
    assert "training" not in vars(nn.Module)


class Collides(nn.Module):
    """Raises what PyTorch does where another thread sets a hook while it goes through a module's: in its first pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.left = small(), 1

    def forward(self, x: Tensor) -> Tensor:
        if self.left:
            self.left -= 1
            raise RuntimeError("OrderedDict mutated during iteration")
        scores: Tensor = self.inner(x)
        return scores


@pytest.mark.parametrize("door", ["attribute", "estimate", "explain", "compile"])
def test_a_collision_of_hooks_begins_the_explanation_anew(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Collides().eval(), image()
    doors: dict[str, Callable[[], Tensor]] = {
        "attribute": lambda: fastsal.Saliency(model).attribute(x, 1),
        "estimate": lambda: fastsal.RISE(model).estimate(x, 1, n_masks=40).attribution,
        "explain": lambda: fastsal.explain(model, x, "saliency", 1).maps["saliency"],
        "compile": lambda: fastsal.compile(fastsal.Saliency(model), x, 1)(x, 1).attribution,
    }
    with pytest.raises(RuntimeError, match="mutated"):  # of a user's own code it is the user's
        doors[door]()
    model.left = 0
    expected = doors[door]()
    monkeypatch.setattr(own.torch_module, "__file__", __file__)  # as if PyTorch's code had raised it
    model.left = 1
    assert torch.equal(doors[door](), expected)
    assert model.left == 0
