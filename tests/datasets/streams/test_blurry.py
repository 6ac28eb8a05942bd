import numpy as np
import pytest

from datasets.streams.blurry import Blurry
from datasets.streams.si_blurry import SiBlurry

NUM_CLASSES, SIZE, TASKS = 20, 100, 5
LABELS = np.repeat(np.arange(NUM_CLASSES), SIZE)


def arranged(kind=Blurry, labels=LABELS, seed=0, **options):
    """For every image, the task that it comes in; and the task of every class."""
    stream = kind(n_tasks=TASKS, **options)
    sizes = stream.task_sizes(NUM_CLASSES, seed)
    task_of_class = np.repeat(np.arange(TASKS), sizes)
    found = stream.arrange(labels, task_of_class, seed)
    assert sorted(found.rows) == list(range(len(labels)))
    tasks = np.empty(len(labels), dtype=np.int64)
    tasks[found.rows] = np.repeat(np.arange(TASKS), np.diff(found.starts))
    return tasks, task_of_class


def disjoint(tasks, labels=LABELS):
    return [label for label in range(NUM_CLASSES) if len(set(tasks[labels == label])) == 1]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_so_many_classes_come_in_one_task_alone_equally_many_of_each_task(share):
    tasks, task_of_class = arranged(blurry_disjoint=share, blurry_minor=0.5)
    found = disjoint(tasks)
    assert len(found) == share * NUM_CLASSES
    assert set(np.bincount(task_of_class[found], minlength=TASKS)) == {share * NUM_CLASSES / TASKS}
    assert all((tasks[label == LABELS] == task_of_class[label]).all() for label in found)


def test_so_many_images_of_the_others_are_spread_evenly_over_all_tasks():
    tasks, task_of_class = arranged(blurry_disjoint=0.5, blurry_minor=0.3)
    elsewhere = tasks != task_of_class[LABELS]
    blurred = [label for label in range(NUM_CLASSES) if label not in disjoint(tasks)]
    num_spread = len(blurred) * 30
    assert elsewhere.sum() == pytest.approx(num_spread * (TASKS - 1) / TASKS, rel=0.1)
    of_classes = [elsewhere[label == LABELS].sum() for label in blurred]
    assert max(of_classes) <= 30
    assert min(of_classes) >= 15
    assert set(np.bincount(tasks)) == {NUM_CLASSES * SIZE // TASKS}  # as many come in as go out, but for the dealing


@pytest.mark.parametrize("kind", [Blurry, SiBlurry])
@pytest.mark.parametrize("shares", [(0.0, 0.0), (1.0, 0.5)])
def test_without_spread_images_it_is_a_split(kind, shares):
    tasks, task_of_class = arranged(kind, blurry_disjoint=shares[0], blurry_minor=shares[1])
    np.testing.assert_array_equal(tasks, task_of_class[LABELS])


@pytest.mark.parametrize("kind", [Blurry, SiBlurry])
def test_it_depends_on_the_seed_and_on_nothing_else(kind):
    first = arranged(kind)[0]
    np.random.seed(5)
    np.testing.assert_array_equal(arranged(kind)[0], first)
    assert (arranged(kind, seed=1)[0] != first).any()


def test_stochastic_tasks_have_random_sizes_and_a_class_each():
    sizes = [SiBlurry(n_tasks=TASKS).task_sizes(NUM_CLASSES, seed) for seed in range(200)]
    assert {sum(each) for each in sizes} == {NUM_CLASSES}
    assert min(map(min, sizes)) == 1
    assert len(set(sizes)) > 150
    np.testing.assert_allclose(np.mean(sizes, axis=0), NUM_CLASSES / TASKS, rtol=0.15)
    assert SiBlurry(n_tasks=4).task_sizes(4, seed=0) == (1, 1, 1, 1)


def test_stochastic_images_come_in_any_task():
    shares = np.zeros(TASKS)
    for seed in range(20):
        tasks, task_of_class = arranged(SiBlurry, seed=seed, blurry_disjoint=0.5, blurry_minor=1.0)
        assert len(disjoint(tasks)) == NUM_CLASSES // 2
        blurred = ~np.isin(LABELS, disjoint(tasks))
        shares += np.bincount(tasks[blurred], minlength=TASKS) / blurred.sum() / 20
        per_task = np.bincount(task_of_class[disjoint(tasks)], minlength=TASKS)
        assert per_task.sum() == NUM_CLASSES // 2
    np.testing.assert_allclose(shares, 1 / TASKS, atol=0.01)
