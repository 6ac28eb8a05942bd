"""Which test images are counted at which moment of a stream."""

from types import SimpleNamespace

import pytest
import torch

from utils.data.pools import TensorPool
from utils.run.evaluator import Evaluator

TASK_OF_CLASS = torch.tensor([0, 0, 1, 1])
LABELS = torch.arange(4).repeat(3)  # three test images of each class


class Stream:
    """Two tasks of two classes; with `blurred` boundaries, class 3 comes in the first task too."""

    num_tasks, num_classes, image_shape = 2, 4, (1, 1, 1)
    task_of_class = TASK_OF_CLASS

    def __init__(self, boundaries):
        self.boundaries = boundaries
        self.first_tasks = torch.tensor([0, 0, 1, 0]) if boundaries == "blurred" else TASK_OF_CLASS

    def pool(self, tasks, split):
        chosen = LABELS[torch.isin(TASK_OF_CLASS[LABELS], torch.tensor(list(tasks)))]
        return TensorPool(torch.zeros(len(chosen), 1, 1, 1, dtype=torch.uint8), chosen, TASK_OF_CLASS[chosen])


def evaluator(boundaries, **options):
    """Of a network that always predicts class 1."""
    network = torch.nn.Identity()
    network.forward = lambda images: torch.eye(4)[1].expand(len(images), 4)
    method = SimpleNamespace(network=network, scores=network.forward)
    config = SimpleNamespace(**{"class_il_outputs": "all", "eval_images": 0, "seed": 0} | options)
    return Evaluator(Stream(boundaries), method, lambda raw: raw.float(), config, lambda: None)


def totals(counts):
    return [each.total for each in counts]


def test_after_a_task_its_classes_and_those_before_are_counted():
    sharp = evaluator("sharp")
    assert totals(sharp.count_after_task(0, with_next=False)) == [3, 3]
    assert totals(sharp.count_after_task(0, with_next=True)) == [3, 3, 3, 3]
    assert totals(sharp.count_after_task(1, with_next=True)) == [3, 3, 3, 3]
    assert [each.correct_class_il for each in sharp.count_after_task(0, with_next=False)] == [0, 3]


def test_where_tasks_share_classes_those_that_came_early_are_counted_too():
    assert totals(evaluator("blurred").count_after_task(0, with_next=False)) == [3, 3, 0, 3]
    assert evaluator("blurred").num_classes_seen(0) == 4
    assert evaluator("sharp").num_classes_seen(0) == 2


def test_a_point_counts_what_has_come_until_then():
    assert totals(evaluator("blurred").count_point(0, [0, 3])) == [3, 0, 0, 3]
    assert totals(evaluator("blurred").count_point(1, [2])) == [3, 3, 3, 3]
    assert totals(evaluator("sharp").count_point(0, None)) == [3, 3]


def test_points_use_as_many_images_of_a_task_as_asked_for():
    found = evaluator("sharp", eval_images=4).count_point(1, None)
    assert totals(found) == [2, 2, 2, 2]


@pytest.mark.parametrize(("boundaries", "mean"), [("sharp", 25.0), ("blurred", 100 * 3 / 9)])
def test_the_mean_is_over_tasks_or_where_they_share_classes_over_images(boundaries, mean):
    made = evaluator(boundaries)
    found = made.by_task(made.count_classes(torch.tensor([True, True, True, False]), num_trained=2))
    line = made.accuracies(found, 1, ("class_il",))
    assert line == {"mean": {"class_il": pytest.approx(mean)}, "class_il": [50.0, 0.0]}


def test_a_task_without_a_tested_image_has_no_accuracy():
    made = evaluator("blurred")
    found = made.by_task(made.count_classes(torch.tensor([False, False, True, True]), num_trained=2))
    assert made.accuracies(found, 1, ("class_il",)) == {"mean": {"class_il": 0.0}, "class_il": [None, 0.0]}
