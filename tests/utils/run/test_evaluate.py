"""Evaluation counts every image once, in both scenarios, and leaves no trace in the network."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from tests.golden import cases
from utils.errors import Diverged, Stopped
from utils.inference import evaluating
from utils.run.evaluate import evaluate

GOLDEN = cases("metrics.npz", "accuracy_")["accuracy_class_il_task_il"]


def row_numbers(count):
    """Images that hold nothing but their row number, and the preparation that gives it back."""
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)


def count(scores, labels, task_classes, **more):
    """Evaluate recorded scores [N, K]: the image is the index of its row."""
    images = row_numbers(len(labels))
    return evaluate(
        lambda rows: scores[rows.view(-1).long()],
        images,
        labels,
        prepare=lambda raw: raw.float(),
        task_classes=task_classes,
        **more,
    )


@pytest.mark.parametrize("batch_size", [None, 1, 7, 24, 100])
@pytest.mark.parametrize("task", range(4))
def test_counts_of_the_published_program(task, batch_size):
    scores = torch.from_numpy(GOLDEN["in_logits"][task])
    labels = torch.from_numpy(GOLDEN["in_labels"][task])
    classes = range(2 * task, 2 * task + 2)
    all_outputs = count(scores, labels, classes, batch_size=batch_size)
    seen_outputs = count(scores, labels, classes, num_seen=8, batch_size=batch_size)
    assert all_outputs.total == seen_outputs.total == len(labels)
    assert seen_outputs.correct_task_il == all_outputs.correct_task_il
    for name, correct in (
        ("class_il", all_outputs.correct_class_il),
        ("class_il_seen_only", seen_outputs.correct_class_il),
        ("task_il", all_outputs.correct_task_il),
    ):
        assert 100 * correct / len(labels) == pytest.approx(GOLDEN[f"out_{name}"][task], rel=1e-9)


def test_golden_scores_tell_the_scenarios_apart():
    """Otherwise the test above could not fail."""
    outputs = [GOLDEN[f"out_{name}"].sum() for name in ("class_il", "class_il_seen_only", "task_il")]
    assert outputs[0] < outputs[1] < outputs[2]


def test_every_image_is_seen_once_and_in_order():
    seen = []
    labels = torch.zeros(250, dtype=torch.int64)

    def scores(rows):
        seen.extend(rows.view(-1).int().tolist())
        return torch.zeros(len(rows), 2)

    images = torch.arange(250, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 40, 40)
    counts = evaluate(scores, images, labels, prepare=lambda raw: raw[:, 0, 0, 0].float(), task_classes=range(2))
    assert seen == list(range(250))
    assert counts.total == counts.correct_class_il == counts.correct_task_il == 250


@pytest.mark.parametrize(("side", "expected"), [(16, 400), (32, 100), (84, 16), (224, 16)])
def test_batches_shrink_with_the_images(side, expected):
    sizes = []

    def scores(images):
        sizes.append(len(images))
        return torch.zeros(len(images), 2)

    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(401, 1, side, side)
    evaluate(scores, images, torch.zeros(401).long(), prepare=lambda raw: raw, task_classes=range(2))
    assert sizes[0] == max(sizes) == expected
    assert sum(sizes) == 401


def test_infinite_scores_mask_an_output_and_nan_ends_the_run():
    scores = torch.tensor([[-torch.inf, 1.0, 0.0], [2.0, -torch.inf, 0.0]])
    counts = count(scores, torch.tensor([1, 1]), range(1, 3))
    assert (counts.correct_class_il, counts.correct_task_il) == (1, 1)
    scores[1, 2] = torch.nan
    with pytest.raises(Diverged, match="NaN on 1 of 2"):
        count(scores, torch.tensor([1, 1]), range(1, 3))


def test_check_is_called_between_batches_and_may_stop():
    calls = []

    def check():
        calls.append(len(calls))
        if len(calls) == 3:
            raise Stopped(15)

    with pytest.raises(Stopped):
        count(torch.zeros(10, 2), torch.zeros(10).long(), range(2), batch_size=2, check=check)
    assert len(calls) == 3


def test_the_device_is_read_once_at_the_end():
    """Tensors on the meta device have no values, so that reading one fails: here after the last batch."""
    num_batches = 0

    def check():
        nonlocal num_batches
        num_batches += 1

    images, labels = torch.zeros(9, 1, 2, 2, device="meta"), torch.zeros(9, device="meta").long()
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        evaluate(
            lambda x: torch.zeros(len(x), 4, device="meta"),
            images,
            labels,
            prepare=lambda raw: raw.float(),
            task_classes=range(2),
            batch_size=2,
            check=check,
        )
    assert num_batches == 5


# -- leaving no trace --------------------------------------------------------------------------------------------------


def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4)
    )


def test_evaluation_changes_no_buffer_no_gradient_and_no_random_state():
    model = network()
    before = copy.deepcopy(model.state_dict())
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    images = torch.arange(160, dtype=torch.uint8).view(10, 1, 4, 4)

    def scores(rows):
        outputs = model(rows)
        assert not outputs.requires_grad
        return outputs

    with evaluating(model):
        evaluate(scores, images, torch.zeros(10).long(), prepare=lambda raw: raw / 255, task_classes=range(2))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


@pytest.mark.parametrize("fails", [False, True])
def test_every_submodule_gets_its_own_mode_back(fails):
    model = network().train()
    model.append(nn.Sequential(model[1]))  # used twice, so that restoring the parent must not reach it
    model[1].eval()
    model[5].eval()
    modes = [module.training for module in model.modules()]
    try:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            assert not torch.is_grad_enabled()
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()


def test_what_is_made_during_evaluation_can_be_trained_with():
    model = network()
    with evaluating(model):
        cached = torch.full((1,), 2.0)
    weight = torch.ones(1, requires_grad=True)
    (weight * cached).backward()
    assert weight.grad.item() == 2
