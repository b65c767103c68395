"""Kernels and waits beside the model's own: docs/launches.md is what is counted, and what is counted is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fastsal
from fastsal.engine.run.graphs import without_waiting

pytest.importorskip("triton", reason="triton is not installed")

from tools.launches import SIZE, Counting, count, counting, made, network, table


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_page_states_what_is_counted(root: Path) -> None:
    stated = [line for line in (root / "docs" / "launches.md").read_text().splitlines() if line.startswith("|")]
    assert stated == table().splitlines()


def test_operations_reads_and_transfers_are_counted_where_the_inputs_are() -> None:
    x, elsewhere = torch.ones(3), torch.ones(3)
    with counting(x) as mode:
        y = (x * 2).view(3, 1)
        elsewhere.sum().item()
        torch.equal(y, y)
        y.sum().item()
        y.tolist()
        (x + torch.tensor([1.0, 2.0, 3.0])).neg_()
    launches, waits = mode.counts
    assert launches == {"mul": 1, "sum": 1, "add": 1, "neg_": 1}
    assert waits == {
        "equal reads": 1,
        "_local_scalar_dense reads": 1,
        "tolist reads": 1,
        "add takes what the host made": 1,
    }


def test_the_models_own_operations_are_left_out_of_both_passes() -> None:
    counts, passes = count(fastsal.Saliency, 1, 24, network)
    assert passes == 1
    assert counts.launches == {"clone": 1, "sum": 1, "ones_like": 1, "select_backward": 1, "abs": 1}
    assert not counts.waits


def test_one_more_read_a_chunk_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = count(fastsal.Occlusion, 1, 6, network)
    selected = fastsal.explainers.task.selected

    def reading(output: torch.Tensor, target: object) -> torch.Tensor:
        float(output.sum())
        return selected(output, target)

    monkeypatch.setattr(fastsal.explainers.task, "selected", reading)
    more, _ = count(fastsal.Occlusion, 1, 6, network)
    assert more.waits.total() - plain.waits.total() == 4


def test_nothing_waits_in_what_a_graph_captures() -> None:
    modes: list[Counting] = []
    model, x, target = network(modes), torch.rand(2, 3, *SIZE), torch.tensor([1, 2])
    explainer = made(fastsal.GradCAM, model, "0")
    with without_waiting():
        explainer.attribute(x, target=target)
        with counting(x, target, *model.parameters()) as mode:
            modes.append(mode)
            explainer.attribute(x, target=target)
    assert not mode.counts.waits
    assert mode.counts.launches.total() <= 15
