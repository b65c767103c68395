"""Evaluation mode and back, inference mode left, and errors that name what differs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastsal.engine.run import evaluation, run
from tests.explainers.networks import small, unchanged


def test_each_module_gets_its_own_flag_back() -> None:
    model = nn.Sequential(nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3)), nn.Linear(3, 3)).train()
    model[0][1].eval()
    flags = [module.training for module in model.modules()]
    for leave in (False, True):
        with unchanged(model):
            try:
                with evaluation(model):
                    assert not any(module.training for module in model.modules())
                    if leave:
                        raise KeyError
            except KeyError:
                assert leave
    assert [module.training for module in model.modules()] == flags


def test_train_is_not_called() -> None:
    """Some models override train() to do more than set the flag; the flags alone are changed."""

    class Counting(nn.Module):
        calls = 0

        def train(self, mode: bool = True) -> Counting:
            self.calls += 1
            return super().train(mode)

    model = Counting()
    with evaluation(model):
        assert not model.training
    assert model.training
    assert model.calls == 0


def test_methods_and_plain_functions() -> None:
    model = small().train()
    with evaluation(model.forward):
        assert not model.training
    assert model.training
    with evaluation(lambda x: x):
        assert model.training
    with evaluation(lambda x: model(x)):
        assert model.training
        run(lambda x: model(x), (torch.ones(1, 3, 8, 8),))
        assert not model.training
    assert model.training


def test_inference_mode_is_left_and_entered_again() -> None:
    with torch.inference_mode():
        with evaluation(small()):
            assert not torch.is_inference_mode_enabled()
            assert not torch.ones(1).is_inference()
        assert torch.is_inference_mode_enabled()


def test_run_calls_as_captum_does() -> None:
    assert run(lambda: 3, (torch.ones(1),)) == 3
    assert run(lambda *arguments: arguments, (1, 2), (3,)) == (1, 2, 3)
    assert torch.equal(run(torch.sin, (torch.zeros(2),)), torch.zeros(2))


def test_an_error_names_dtypes_only_where_they_differ() -> None:
    model = small()
    with pytest.raises(ValueError, match=r"torch.float64.*torch.float32") as caught:
        run(model, (torch.ones(1, 3, 8, 8, dtype=torch.float64),))
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(RuntimeError, match="channels"):
        run(model, (torch.ones(1, 2, 8, 8),))

    def casts(x: Tensor) -> Tensor:
        return model(x.float())

    assert run(casts, (torch.ones(1, 3, 8, 8, dtype=torch.float64),)).shape == (1, 4)


def test_an_error_names_dtypes_of_a_model_that_is_just_being_found() -> None:
    model = small()

    def logits(x: Tensor) -> Tensor:
        return model(x)

    for _ in range(2):
        with evaluation(logits), pytest.raises(ValueError, match=r"torch.float64.*torch.float32"):
            run(logits, (torch.ones(1, 3, 8, 8, dtype=torch.float64),))


def test_a_device_that_differs(cuda: torch.device) -> None:
    with pytest.raises(ValueError, match=r"cpu.*cuda"):
        run(small().to(cuda), (torch.ones(1, 3, 8, 8),))
