"""Evaluation counts every image once, in both scenarios, and leaves no trace in the network."""

import copy
import random
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tests.golden import cases
from utils.data.pools import TensorPool
from utils.errors import Diverged, Stopped
from utils.inference import evaluating
from utils.run.evaluate import Counts, choose_images, evaluate, mean_cross_entropy

GOLDEN = cases("metrics.npz", "accuracy_")["accuracy_class_il_task_il"]


def pool_of(labels, task_of_class, side=1, device="cpu"):
    """Images that hold nothing but their row number."""
    numbers = torch.arange(len(labels), device=device).to(torch.int32).view(-1, 1, 1, 1).expand(-1, 1, side, side)
    return TensorPool(numbers, labels.to(device), torch.as_tensor(task_of_class)[labels])


def count(scores, labels, task_of_class, **more):
    """Evaluate recorded scores [N, K]: the image is the index of its row."""
    task_of_class = torch.as_tensor(task_of_class)
    return evaluate(
        lambda rows: scores[rows[:, 0, 0, 0].long()],
        pool_of(labels, task_of_class),
        prepare=lambda raw: raw,
        task_of_class=task_of_class,
        **more,
    )


@pytest.fixture
def rows_per_batch(monkeypatch):
    """Sets the size of batches."""
    return lambda number: monkeypatch.setattr("utils.run.evaluate.inference_batch_size", lambda *parts: number)


@pytest.mark.parametrize("batch_size", [None, 1, 7, 24, 100])
def test_counts_of_the_published_program(batch_size, rows_per_batch):
    if batch_size:
        rows_per_batch(batch_size)
    scores = torch.from_numpy(GOLDEN["in_logits"]).flatten(0, 1)
    labels = torch.from_numpy(GOLDEN["in_labels"]).flatten()
    task_of_class = torch.arange(scores.shape[1]) // 2
    all_outputs = count(scores, labels, task_of_class)
    seen_outputs = count(scores, labels, task_of_class, last_tasks=torch.full((8,), 3))
    for task, (of_all, of_seen) in enumerate(zip(all_outputs, seen_outputs, strict=True)):
        assert of_all.total == of_seen.total == len(GOLDEN["in_labels"][task])
        assert of_seen.correct_task_il == of_all.correct_task_il
        for name, correct in (
            ("class_il", of_all.correct_class_il),
            ("class_il_seen_only", of_seen.correct_class_il),
            ("task_il", of_all.correct_task_il),
        ):
            assert 100 * correct / of_all.total == pytest.approx(GOLDEN[f"out_{name}"][task], rel=1e-9)


def test_golden_scores_tell_the_scenarios_apart():
    """Otherwise the test above could not fail."""
    outputs = [GOLDEN[f"out_{name}"].sum() for name in ("class_il", "class_il_seen_only", "task_il")]
    assert outputs[0] < outputs[1] < outputs[2]


def test_every_task_compares_the_classes_until_its_own_last_one():
    """As in forward transfer, where a task that has not been learned is tested too."""
    scores = torch.tensor([[1.0, 0, 2, 3], [0, 1, 2, 3], [0, 0, 2, 3], [0, 0, 3, 2]])
    counted = count(scores, torch.tensor([0, 1, 2, 2]), [0, 0, 1, 2], last_tasks=torch.tensor([0, 0, 1, 1]))
    assert [each.correct_class_il for each in counted] == [2, 2]
    counted = count(scores, torch.tensor([0, 1, 2, 2]), [0, 0, 1, 2], last_tasks=torch.tensor([1, 1, 2, 2]))
    assert [each.correct_class_il for each in counted] == [0, 1]


def test_a_head_that_grows_has_no_outputs_of_later_tasks():
    counted = count(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1]), [0, 0, 1, 1])
    assert counted == [Counts(correct_class_il=1, correct_task_il=1, total=2)]


def test_many_small_test_sets_share_batches():
    seen = []

    def scores(rows):
        seen.append(rows[:, 0, 0, 0].tolist())
        return torch.eye(250)[rows[:, 0, 0, 0].long()]

    task_of_class = torch.arange(250)
    pool = pool_of(torch.arange(250), task_of_class, side=32)
    counted = evaluate(scores, pool, prepare=lambda raw: raw, task_of_class=task_of_class)
    assert seen == [[*range(100)], [*range(100, 200)], [*range(200, 250)]]
    assert counted == [Counts(1, 1, 1)] * 250


def test_infinite_scores_mask_an_output_and_nan_ends_the_run():
    scores = torch.tensor([[-torch.inf, 1.0, 0.0], [2.0, -torch.inf, 0.0]])
    labels, task_of_class = torch.tensor([1, 1]), [1, 0, 0]
    (counted,) = count(scores, labels, task_of_class)
    assert (counted.correct_class_il, counted.correct_task_il) == (1, 1)
    scores[1, 2] = torch.nan
    with pytest.raises(Diverged, match="NaN on 1 of 2"):
        count(scores, labels, task_of_class)


def test_of_outputs_that_are_all_masked_one_of_the_task_is_taken():
    (_, counted) = count(torch.full((2, 3), -torch.inf), torch.tensor([0, 1]), [0, 1, 1])
    assert (counted.correct_class_il, counted.correct_task_il) == (0, 1)


def test_check_is_called_between_batches_and_may_stop(rows_per_batch):
    calls = []

    def check():
        calls.append(len(calls))
        if len(calls) == 3:
            raise Stopped(15)

    rows_per_batch(2)
    with pytest.raises(Stopped):
        count(torch.zeros(10, 2), torch.zeros(10).long(), [0, 0], check=check)
    assert len(calls) == 3


def test_the_device_is_read_once_at_the_end(rows_per_batch):
    """Tensors on the meta device have no values, so that reading one fails: here after the last batch."""
    num_batches = 0

    def check():
        nonlocal num_batches
        num_batches += 1

    rows_per_batch(2)
    pool = pool_of(torch.zeros(9).long(), [0, 0])
    pool.device, pool.images, pool._device_labels = torch.device("meta"), pool.images.to("meta"), pool.labels.to("meta")
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        evaluate(
            lambda x: torch.zeros(len(x), 2, device="meta"),
            pool,
            prepare=lambda raw: raw.float(),
            task_of_class=torch.zeros(2).long(),
            check=check,
        )
    assert num_batches == 5


class FullDevice:
    """A pool whose device says that it is a GPU, and scores that need more memory than it has above some rows."""

    def __init__(self, pool, limit):
        self.pool, self.limit, self.sizes = pool, limit, []
        self.device, self.image_shape, self.tasks = SimpleNamespace(type="cuda"), pool.image_shape, pool.tasks

    def __len__(self):
        return len(self.pool)

    def take(self, rows):
        return self.pool.take(rows)

    def scores(self, rows):
        self.sizes.append(len(rows))
        if len(rows) > self.limit:
            raise RuntimeError("CUDA error: out of memory")
        return torch.eye(2)[[0] * len(rows)]


@pytest.mark.parametrize(("limit", "sizes"), [(100, [16, 4]), (15, [16, *[2] * 10]), (1, [16, 2])])
def test_a_full_gpu_gets_smaller_batches_once(limit, sizes, rows_per_batch, monkeypatch):
    monkeypatch.setattr("utils.run.evaluate.send", lambda values, device: values)
    rows_per_batch(16)
    device = FullDevice(pool_of(torch.zeros(20).long(), [0, 0]), limit)
    arguments = {"prepare": lambda raw: raw, "task_of_class": torch.zeros(2).long()}
    with pytest.raises(RuntimeError, match="out of memory") if limit == 1 else nullcontext():
        assert evaluate(device.scores, device, **arguments) == [Counts(20, 20, 20)]
    assert device.sizes == sizes


def test_mean_cross_entropy_is_that_of_all_images_at_once(rows_per_batch):
    rows_per_batch(3)
    logits, labels = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 4
    found = mean_cross_entropy(
        lambda rows: logits[rows[:, 0, 0, 0].long()], pool_of(labels, [0] * 4), prepare=lambda raw: raw
    )
    assert found == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-6)
    with pytest.raises(Diverged, match="validation loss"):
        mean_cross_entropy(
            lambda rows: logits[rows[:, 0, 0, 0].long()] / 0, pool_of(labels, [0] * 4), prepare=lambda raw: raw
        )


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
        pool = TensorPool(images, torch.zeros(10).long(), torch.zeros(10).long())
        evaluate(scores, pool, prepare=lambda raw: raw / 255, task_of_class=torch.zeros(4).long())
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


# -- Images for evaluations inside tasks ------------------------------------------------------------------------------


def test_so_many_images_of_each_task_are_chosen_evenly_by_class_and_by_the_seed():
    labels = torch.arange(5).repeat_interleave(torch.tensor([30, 10, 2, 20, 3]))
    task_of_class = torch.tensor([0, 0, 0, 1, 1])
    chosen = choose_images(labels, task_of_class, 10, seed=3)
    sizes = labels[chosen].bincount().tolist()
    assert sizes == [4, 4, 2, 7, 3]
    assert torch.equal(chosen, choose_images(labels, task_of_class, 10, seed=3))
    assert not torch.equal(chosen, choose_images(labels, task_of_class, 10, seed=4))


def test_a_task_with_fewer_images_gives_all_of_them():
    labels = torch.tensor([0, 0, 1, 1, 1])
    assert choose_images(labels, torch.tensor([0, 1]), 2, seed=0).sum() == 4
    assert choose_images(labels, torch.tensor([0, 1]), 9, seed=0).all()
