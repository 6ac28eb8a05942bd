from types import SimpleNamespace

import pytest

from datasets.streams.split import Split
from utils.errors import UserError

TEN = SimpleNamespace(num_classes=10, num_tasks=5, task_sizes=None)
OWN = SimpleNamespace(num_classes=10, num_tasks=5, task_sizes=(4, 2, 2, 2))


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, (2, 2, 2, 2, 2)),
        ({"n_tasks": 1}, (10,)),
        ({"n_tasks": 3}, (4, 3, 3)),
        ({"n_tasks": 7}, (2, 2, 2, 1, 1, 1, 1)),
        ({"n_tasks": 10}, (1,) * 10),
        ({"n_tasks": 4, "first_task_classes": 4}, (4, 2, 2, 2)),
        ({"n_tasks": 4, "first_task_classes": 5}, (5, 2, 2, 1)),
        ({"classes_per_task": 5}, (5, 5)),
        ({"first_task_classes": 4, "classes_per_task": 3}, (4, 3, 3)),
        ({"first_task_classes": 9, "classes_per_task": 1}, (9, 1)),
    ],
)
def test_sizes_are_as_typed(options, sizes):
    split = Split(TEN, **options)
    assert split.task_sizes(10, seed=3) == sizes
    assert split.num_tasks(10) == len(sizes)


def test_fifty_classes_and_then_five_at_a_time():
    split = Split(TEN, first_task_classes=50, classes_per_task=5)
    assert split.task_sizes(100, seed=0) == (50, *[5] * 10)
    assert split.num_tasks(None) is None


def test_a_dataset_may_have_sizes_of_its_own():
    assert Split(OWN).task_sizes(10, seed=0) == (4, 2, 2, 2)
    assert Split(OWN).num_tasks(None) == 4
    assert Split(OWN, n_tasks=2).task_sizes(10, seed=0) == (5, 5)
    with pytest.raises(UserError, match=r"`task_sizes` \(4, 2, 2, 2\) .* 12 classes"):
        Split(OWN).task_sizes(12, seed=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_tasks": 11}, "--n_tasks leaves a task without classes: 11 tasks would share 10"),
        (
            {"n_tasks": 5, "first_task_classes": 7},
            "--first_task_classes 7 leaves a task without classes: 4 tasks would share 3 classes after .* --n_tasks$",
        ),
        ({"first_task_classes": 10}, "--first_task_classes 10 leaves no class .* at most 9"),
        ({"first_task_classes": 12, "classes_per_task": 2}, "--first_task_classes 12"),
        ({"classes_per_task": 3}, "--classes_per_task 3: .* possible are 1, 2, 5, 10$"),
        ({"first_task_classes": 4, "classes_per_task": 4}, "the 6 classes after the first task"),
    ],
)
def test_a_task_without_a_class_is_refused(options, words):
    with pytest.raises(UserError, match=words) as caught:
        Split(TEN, **options).task_sizes(10, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("own", [TEN, OWN])
def test_the_sizes_of_the_dataset_are_one_stream_however_they_are_typed(own):
    lines = [{"n_tasks": 5}, {"classes_per_task": 2}, {"first_task_classes": 2, "classes_per_task": 2}]
    if own is OWN:
        lines = [{}, {"n_tasks": 4, "first_task_classes": 4}, {"first_task_classes": 4, "classes_per_task": 2}]
    assert all(Split.identity_values(line | {"lr": 1}, own) == {"lr": 1} for line in lines)
    assert Split.identity_values({"n_tasks": 2}, own) == {"n_tasks": 2}
