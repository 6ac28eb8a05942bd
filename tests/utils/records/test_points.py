"""Metrics of the evaluation points inside a stream, against values worked out by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from utils.records.metrics import summarise
from utils.records.points import (
    Points,
    area_under_curve,
    minimum_accuracy,
    stability_gap,
    worst_case_accuracy,
)

# Three tasks of 10 test images each: two points inside each task, and one at its end.
COUNTED = {
    "step": [2, 4, 5, 7, 9, 10, 12, 14, 15],
    "task": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "images": [20, 40, 50, 70, 90, 95, 115, 135, 140],
    "class_il": [
        [5, None, None],
        [7, None, None],
        [9, None, None],
        [3, 2, None],
        [5, 6, None],
        [8, 8, None],
        [6, 2, 1],
        [4, 7, 4],
        [7, 6, 9],
    ],
    "total": [[10, None, None]] * 3 + [[10, 10, None]] * 3 + [[10, 10, 10]] * 3,
}
COUNTED["task_il"] = [[number and 10 for number in row] for row in COUNTED["class_il"]]
POINTS = Points.of(COUNTED, "class_il")


def points(tasks, accuracies, images=None):
    accuracies = np.array(accuracies, dtype=float)
    images = np.arange(1, len(tasks) + 1) if images is None else np.array(images)
    return Points(np.arange(len(tasks)), np.array(tasks), images, accuracies, np.nanmean(accuracies, axis=1))


def test_minimum_accuracy_is_the_lowest_since_the_end_of_the_task():
    """Task 0: 30 in task 1; its own 50 % before it was learned does not count. Task 1: 20 in task 2."""
    assert minimum_accuracy(POINTS) == pytest.approx((30 + 20) / 2)


def test_worst_case_accuracy_weighs_the_last_task_against_the_minima():
    assert worst_case_accuracy(POINTS) == pytest.approx(90 / 3 + (1 - 1 / 3) * 25)


def test_stability_gap_is_the_largest_drop_after_the_begin_of_each_task():
    """Task 1: from 90 to 30. Task 2: from (80 + 80) / 2 to (60 + 20) / 2."""
    assert stability_gap(POINTS) == pytest.approx((60 + 40) / 2)


def test_a_drop_that_is_made_up_for_shows_inside_alone():
    ends_alone = points([0, 1], [[80, math.nan], [80, 60]])
    inside = points([0, 1, 1], [[80, math.nan], [20, 10], [80, 60]])
    assert stability_gap(ends_alone) == 0
    assert stability_gap(inside) == 60
    assert minimum_accuracy(inside) == 20


def test_accuracies_that_rise_alone_have_no_gap():
    assert stability_gap(points([0, 1, 1], [[50, math.nan], [60, 10], [70, 60]])) == 0


def test_area_is_over_the_images_and_the_accuracy_on_all_classes_seen():
    heights = [50, 70, 90, 25, 55, 80, 30, 50, 220 / 3]
    widths = [20, 20, 10, 20, 20, 5, 20, 20, 5]
    area = sum(height * width for height, width in zip(heights, widths, strict=True))
    assert area_under_curve(POINTS) == pytest.approx(area / 140)


def test_with_equal_intervals_the_area_is_the_mean_of_the_points():
    assert area_under_curve(points([0, 0, 0], [[30], [50], [70]], images=[10, 20, 30])) == pytest.approx(50)


def test_tasks_of_unequal_test_sets_count_by_image_in_the_area_and_equally_elsewhere():
    counted = {"step": [1, 2], "task": [0, 1], "images": [4, 8], "class_il": [[20, None], [10, 10]]}
    counted |= {"task_il": counted["class_il"], "total": [[40, None], [40, 10]]}
    found = Points.of(counted, "class_il")
    assert area_under_curve(found) == pytest.approx((50 + 40) / 2)
    assert minimum_accuracy(found) == pytest.approx(25)
    assert worst_case_accuracy(found) == pytest.approx(100 / 2 + 25 / 2)


def test_a_single_task_or_a_stream_without_boundaries_has_an_area_alone():
    single = points([0, 0], [[40], [60]])
    assert area_under_curve(single) == 50
    assert all(math.isnan(metric(single)) for metric in (minimum_accuracy, worst_case_accuracy, stability_gap))


def test_a_task_whose_classes_come_later_counts_from_then_on():
    """As with blurred boundaries, where no class of task 0 need have come by the end of its segment."""
    late = points([0, 1, 1, 2], [[math.nan, 50, math.nan], [math.nan, 70, 50], [40, 60, 50], [30, 60, 90]])
    assert minimum_accuracy(late) == pytest.approx((30 + 60) / 2)


def test_they_are_metrics_of_a_record_where_it_has_points():
    ends = [[9, None, None], [8, 8, None], [7, 6, 9]]
    total = [[10, None, None], [10, 10, None], [10, 10, 10]]
    run = {"class_il": ends, "task_il": total, "total": total, "untrained": None, "anytime": (), "classes": None}
    found = summarise(SimpleNamespace(**run, points=COUNTED, boundaries="sharp"))
    assert found["class_il"]["min-ACC"] == pytest.approx(25)
    assert found["class_il"]["WC-ACC"] == pytest.approx(30 + 25 * 2 / 3)
    assert found["class_il"]["stability_gap"] == pytest.approx(50)
    assert found["class_il"]["A_AUC"] == pytest.approx(area_under_curve(POINTS))
    assert (found["task_il"]["min-ACC"], found["task_il"]["stability_gap"]) == (100, 0)
    assert "A_AUC" not in found["task_il"]
    without = summarise(SimpleNamespace(**run, points=None, boundaries="sharp"))["class_il"]
    assert {without[name] for name in ("A_AUC", "min-ACC", "WC-ACC", "stability_gap")} == {None}
