"""Attributions of generated texts against Captum's, by models whose tokens see what is behind them or do not."""

from __future__ import annotations

from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import fastsal
from fastsal.compat import captum as compat
from tests.explainers.languages import Language, Letters, language_model

EXACT = ["FeatureAblation", "ShapleyValues"]
PROMPTS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "list": ("TextTemplateInput", ("{} b {} {} e", ["a", "c", "d"]), {}),
    "baselines": ("TextTemplateInput", ("{} b {} {} e", ["a", "c", "d"], ["z", "y", "x"]), {}),
    "by name": (
        "TextTemplateInput",
        ("{one} b {two} c", {"one": "a f", "two": "c"}),
        {"baselines": {"two": "k", "one": "z"}, "mask": {"one": 4, "two": 6}},
    ),
    "removed": ("TextTemplateInput", ("{one} b {two} c", {"one": "a f", "two": "c"}), {}),
    "mask": ("TextTemplateInput", (lambda *each: " q ".join(each), ["a", "c", "d", "e"]), {"mask": [7, 3, 7, 1]}),
    "tokens": ("TextTokenInput", ("a b c", Letters()), {"baselines": 1}),
    "some tokens": ("TextTokenInput", ("a b c b", Letters()), {"baselines": "<unk>", "skip_tokens": ["<s>", "b"]}),
}


def prompts(name: str) -> tuple[Any, Any]:
    kind, arguments, options = PROMPTS[name]
    return getattr(fastsal, kind)(*arguments, **options), getattr(captum.attr, kind)(*arguments, **options)


def same(ours: Any, theirs: Any) -> None:
    assert ours.input_tokens == theirs.input_tokens
    assert ours.output_tokens == theirs.output_tokens
    torch.testing.assert_close(ours.seq_attr, theirs.seq_attr, rtol=1e-4, atol=2e-5)
    if theirs.token_attr is None:
        assert ours.token_attr is None
    else:
        torch.testing.assert_close(ours.token_attr, theirs.token_attr, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_captums(name: str) -> None:
    ours, theirs = prompts(name)
    assert ours.values == theirs.values
    assert torch.equal(ours.to_tensor(), theirs.to_tensor())
    features = ours.n_itp_features
    assert features == theirs.n_itp_features
    for chosen in ([1] * features, [0] * features, [1, *[0] * (features - 1)], [0, *[1] * (features - 1)]):
        present = torch.tensor([chosen])
        found, expected = ours.to_model_input(present), theirs.to_model_input(present)
        assert torch.equal(found, expected) if isinstance(found, Tensor) else found == expected
    attribution = torch.arange(2.0 * features).view(2, features)
    assert torch.equal(ours.format_attr(attribution), theirs.format_attr(attribution))


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("name", PROMPTS)
def test_methods_that_take_parts_away(method: str, name: str) -> None:
    model, tokenizer = language_model()
    ours, theirs = prompts(name)
    expected = captum.attr.LLMAttribution(getattr(captum.attr, method)(model), tokenizer)
    found = fastsal.LLMAttribution(getattr(fastsal, method)(model), tokenizer)
    same(found.attribute(ours, "m n o"), expected.attribute(theirs, "m n o", use_cached_outputs=False))


@pytest.mark.parametrize("in_tokens", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_tokens_one_by_one_and_at_once(causal: bool, in_tokens: bool) -> None:
    """Of a model whose tokens see what is behind them these differ, which is found out; of others one pass will do."""
    model, tokenizer = Language(causal).eval(), Letters()
    ours, theirs = prompts("baselines")
    expected = captum.attr.LLMAttribution(captum.attr.FeatureAblation(model), tokenizer, attr_target="prob")
    options = {"use_cached_outputs": False, "forward_in_tokens": in_tokens}
    wanted = expected.attribute(theirs, torch.tensor([5, 9, 2]), **options)
    model.calls = 0
    found = fastsal.LLMAttribution(fastsal.FeatureAblation(model), tokenizer, attr_target="prob")
    same(found.attribute(ours, torch.tensor([5, 9, 2]), forward_in_tokens=in_tokens), wanted)
    model.calls = 0
    found.attribute(ours, torch.tensor([5, 9, 2]), forward_in_tokens=in_tokens)
    # The clean prompt and all three without a part each in one pass each, and the question.
    assert model.calls <= (2 + 3 * in_tokens if causal or not in_tokens else 2 * 3 + 3)


@pytest.mark.parametrize("method", ["Lime", "KernelShap", "ShapleyValueSampling"])
def test_random_methods_come_to_the_same(method: str) -> None:
    pytest.importorskip("sklearn")
    model, tokenizer = language_model()
    ours, theirs = prompts("baselines")
    torch.manual_seed(0)
    expected = captum.attr.LLMAttribution(getattr(captum.attr, method)(model), tokenizer)
    wanted = expected.attribute(theirs, "m n", use_cached_outputs=False, n_samples=300)
    found = fastsal.LLMAttribution(getattr(fastsal, method)(model), tokenizer).attribute(ours, "m n", n_samples=300)
    assert (found.token_attr is None) == (wanted.token_attr is None)
    # Both draw orders, of which 300 leave a twentieth of the spread of one.
    allowed = 0.25 if method == "ShapleyValueSampling" else 0.1
    assert (found.seq_attr - wanted.seq_attr).abs().max() < allowed * wanted.seq_attr.abs().max()


def test_kernel_shap_of_a_prompt_is_exact() -> None:
    model, tokenizer = language_model()
    prompt, _ = prompts("baselines")
    exact = fastsal.LLMAttribution(fastsal.ShapleyValues(model), tokenizer).attribute(prompt, "m n")
    found = fastsal.LLMAttribution(fastsal.KernelShap(model), tokenizer).attribute(prompt, "m n", n_samples=8)
    torch.testing.assert_close(found.seq_attr, exact.seq_attr, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["LayerIntegratedGradients", "LayerGradientXActivation", "LayerGradientShap"])
@pytest.mark.parametrize("name", ["tokens", "some tokens"])
def test_gradients_at_an_embedding(method: str, name: str) -> None:
    model, tokenizer = language_model()
    ours, theirs = prompts(name)
    options: dict[str, Any] = {"n_steps": 20} if method == "LayerIntegratedGradients" else {}
    if method == "LayerGradientShap":  # at points where no token is there, wherever they are
        options = {"baselines": torch.zeros_like(ours.to_tensor()), "n_samples": 4}
    expected = captum.attr.LLMGradientAttribution(getattr(captum.attr, method)(model, model.embedding), tokenizer)
    found = fastsal.LLMGradientAttribution(getattr(fastsal, method)(model, "embedding"), tokenizer)
    # Captum repeats the text's tokens for the draws, so that with several of either it takes wrong ones.
    text = "m" if method == "LayerGradientShap" else "m n o"
    same(found.attribute(ours, text, **options), expected.attribute(theirs, text, **options))


def test_integrated_gradients_add_up() -> None:
    """By hand: the change of the text's log probability from the prompt without its tokens."""
    model, tokenizer = language_model()
    prompt = fastsal.TextTokenInput("a b c", tokenizer, baselines=1)
    method = fastsal.LayerIntegratedGradients(model, "embedding")
    found = fastsal.LLMGradientAttribution(method, tokenizer).attribute(prompt, "m n", n_steps=200)
    sums = []
    for ids in (prompt.inp_tensor, torch.ones_like(prompt.inp_tensor)):
        tokens = tokenizer.encode("m n", add_special_tokens=False)
        logits = model(torch.cat([ids, torch.tensor([tokens])], 1)).logits[0].log_softmax(1)
        sums.append(torch.stack([logits[ids.shape[1] - 1 + i, token] for i, token in enumerate(tokens)]))
    torch.testing.assert_close(found.token_attr.sum(1), (sums[0] - sums[1]).detach(), rtol=1e-3, atol=1e-3)


def test_a_text_that_the_model_generates() -> None:
    model, tokenizer = language_model()
    ours, theirs = prompts("tokens")
    expected = captum.attr.LLMAttribution(captum.attr.FeatureAblation(model), tokenizer)
    found = fastsal.LLMAttribution(fastsal.FeatureAblation(model), tokenizer)
    options = {"gen_args": {"max_new_tokens": 4}}
    same(found.attribute(ours, **options), expected.attribute(theirs, use_cached_outputs=False, **options))


def test_segments_of_a_picture() -> None:
    """Two inputs, one of pixels and one of tokens, as of visual question answering."""
    model, tokenizer = Language(pictures=3).eval(), Letters()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8))
    mask = (torch.arange(8) // 3).expand(6, 8)
    overlapping = [torch.zeros(6, 8).index_fill(1, torch.arange(start, start + 5), 1) for start in (0, 3)]

    def processed(image: Image.Image) -> dict[str, Tensor]:
        pixels = torch.tensor(np.asarray(image), dtype=torch.float32).mean((0, 1))[None] / 100
        return {"input_ids": tokenizer.encode("a b", return_tensors="pt"), "pixels": pixels}

    choices: list[dict[str, Any]] = [{"mask": mask}, {"mask_list": overlapping, "baseline": (0, 50, 9)}, {}]
    for options in choices:
        ours, theirs = (
            each.ImageMaskInput(picture, processor_fn=processed, **options) for each in (fastsal, captum.attr)
        )
        expected = captum.attr.LLMAttribution(captum.attr.ShapleyValues(model), tokenizer)
        wanted = expected.attribute(theirs, "m n", use_cached_outputs=False)
        found = fastsal.LLMAttribution(fastsal.ShapleyValues(model), tokenizer).attribute(ours, "m n")
        same(found, wanted)
        torch.testing.assert_close(
            ours.format_pixel_attr(found.seq_attr[None]), theirs.format_pixel_attr(wanted.seq_attr[None]),
            rtol=1e-4, atol=2e-5,
        )  # fmt: skip


def test_baselines_that_are_drawn() -> None:
    values = {("one", "two"): [("p", "q"), ("r", "s")], "three": ["t"]}
    import random

    random.seed(3)
    ours = [fastsal.ProductBaselines(values)() for _ in range(5)]
    random.seed(3)
    assert ours == [captum.attr.ProductBaselines(values)() for _ in range(5)]
    assert fastsal.ProductBaselines([["a"], ["b"]])() == ["a", "b"]
    model, tokenizer = language_model()
    prompt = fastsal.TextTemplateInput("{} {}", ["a", "c"], fastsal.ProductBaselines([["x", "y"], ["z"]]))
    explainer = fastsal.LLMAttribution(fastsal.FeatureAblation(model), tokenizer)
    fixed = [
        explainer.attribute(fastsal.TextTemplateInput("{} {}", ["a", "c"], [word, "z"]), "m").seq_attr
        for word in ("x", "y")
    ]
    found = explainer.attribute(prompt, "m", num_trials=40).seq_attr
    torch.testing.assert_close(found[1], fixed[0][1], rtol=1e-4, atol=1e-5)
    low, high = sorted((float(fixed[0][0]), float(fixed[1][0])))
    assert low + 0.2 * (high - low) < float(found[0]) < high - 0.2 * (high - low)


def test_a_model_in_train_mode_is_as_it_was() -> None:
    model, tokenizer = Language().train(), Letters()
    prompt, _ = prompts("tokens")
    explainer = fastsal.LLMAttribution(fastsal.FeatureAblation(model), tokenizer)
    first = explainer.attribute(prompt).seq_attr
    assert torch.equal(first, explainer.attribute(prompt).seq_attr)
    assert all(module.training for module in model.modules())
    assert explainer.attr_method.forward_func is model


def test_what_is_told() -> None:
    told: list[tuple[str, str, list[float]]] = []
    model, tokenizer = language_model()
    prompt, _ = prompts("list")
    explainer = fastsal.LLMAttribution(fastsal.FeatureAblation(model), tokenizer)
    explainer.attribute(prompt, "m n", _inspect_forward=lambda *each: told.append(each), perturbations_per_eval=1)
    assert told[0][:2] == ("<s> a b c d e", "m n")
    assert {each[0] for each in told} >= {"<s> b c d e", "<s> a b d e", "<s> a b c e"}
    assert all(len(each[2]) == 3 and each[2][0] == pytest.approx(each[2][1] * each[2][2]) for each in told)


REFUSED: dict[str, tuple[Any, str]] = {
    "method": (lambda m, t, p: fastsal.LLMAttribution(fastsal.Saliency(m), t), "attr_method: Saliency is none of"),
    "function": (
        lambda m, t, p: fastsal.LLMAttribution(fastsal.FeatureAblation(lambda x: m(x)), t),
        "attr_method: it explains a function",
    ),
    "score": (
        lambda m, t, p: fastsal.LLMAttribution(fastsal.FeatureAblation(m), t, "logit"),
        "attr_target: 'logit' is neither",
    ),
    "prompt": (
        lambda m, t, p: fastsal.LLMAttribution(fastsal.FeatureAblation(m), t).attribute("a b", "c"),
        "inp: str is no prompt; pass a TextTemplateInput",
    ),
    "both": (
        lambda m, t, p: fastsal.LLMAttribution(fastsal.FeatureAblation(m), t).attribute(p, "c", gen_args={"x": 1}),
        "gen_args: they are for generating",
    ),
    "nothing": (
        lambda m, t, p: fastsal.LLMAttribution(fastsal.FeatureAblation(m), t).attribute(p, ""),
        "target: it has the shape",
    ),
    "baselines": (lambda m, t, p: fastsal.TextTemplateInput("{}", ["a"], {"x": "b"}), "baselines: dict given, but"),
    "mask": (lambda m, t, p: fastsal.TextTemplateInput("{}", ["a"], mask=[1, 2]), "mask: 2 given for 1 values"),
    "picture": (
        lambda m, t, p: fastsal.ImageMaskInput(Image.new("RGB", (4, 3)), torch.zeros(4, 3)),
        "mask: shape \\(4, 3\\) is not the picture's \\(3, 4\\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors(name: str) -> None:
    model, tokenizer = language_model()
    attempt, message = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=message):
        attempt(model, tokenizer, prompts("list")[0])


def test_in_captums_place() -> None:
    """After install() Captum's names are ours, prompts of the user's own are taken, and errors are Captum's too."""
    original = captum.attr.TextTemplateInput
    with compat.install():
        model, tokenizer = language_model()

        class Own(captum.attr.InterpretableInput):
            n_itp_features, values = 1, ["a"]

            def to_tensor(self) -> Tensor:
                return torch.ones(1, 1)

            def to_model_input(self, perturbed_tensor: Tensor | None = None) -> str:
                return "a b" if perturbed_tensor is None or perturbed_tensor[0, 0] == 1 else "z b"

        explainer = captum.attr.LLMAttribution(captum.attr.FeatureAblation(model), tokenizer)
        assert isinstance(explainer, fastsal.LLMAttribution)
        assert isinstance(captum.attr.TextTemplateInput("{}", ["a"]), captum.attr.InterpretableInput)
        found = explainer.attribute(Own(), "m").seq_attr
        prompt = captum.attr.TextTemplateInput("{} b", ["a"], ["z"])
        assert torch.equal(found, explainer.attribute(prompt, "m").seq_attr)
        with pytest.raises(AssertionError):
            captum.attr.LLMAttribution(captum.attr.Saliency(model), tokenizer)
        with pytest.raises(NotImplementedError):
            explainer.attribute_future()
    assert captum.attr.TextTemplateInput is original


class Provider:
    """Of log probabilities, as an API has them: by texts, one at a time."""

    def __init__(self) -> None:
        self.model, self.asked = language_model()[0], list[str]()

    def get_logprobs(self, input_prompt: str, target_str: str, tokenizer: Any, **_: Any) -> list[float]:
        self.asked.append(input_prompt)
        prompt = tokenizer.encode(input_prompt)
        target = tokenizer.encode(target_str, add_special_tokens=False)
        with torch.no_grad():
            logits = self.model(torch.tensor([prompt + target])).logits[0].log_softmax(1)
        return [float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(target)]


@pytest.mark.parametrize("text", ["m", "m n o"])
@pytest.mark.parametrize("method", EXACT)
def test_after_install_a_remote_model_takes_our_methods_and_prompts(method: str, text: str) -> None:
    def explained() -> tuple[Any, list[str]]:
        kind, arguments, options = PROMPTS["baselines"]
        remote, provider = captum.attr.RemoteLLMAttribution, Provider()
        attributing = remote(getattr(captum.attr, method)(remote.placeholder_model), Letters(), provider)
        return attributing.attribute(getattr(captum.attr, kind)(*arguments, **options), text), provider.asked

    expected, asked = explained()
    with compat.install():
        assert issubclass(captum.attr.FeatureAblation, fastsal.FeatureAblation)
        found, questions = explained()
    same(found, expected)
    assert len(questions) <= len(asked)
