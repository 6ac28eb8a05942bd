"""Metrics agree with the recorded values of the published programs, and are None where they cannot be computed."""

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from tests.golden import cases
from utils.config.protocols import PROTOCOLS
from utils.errors import PluginError, UserError
from utils.records import metrics
from utils.records.metrics import METRICS, Metric

GOLDEN = cases("metrics.npz")
MAMMOTH = [name for name in GOLDEN if name.startswith(("mammoth_class_il", "mammoth_task_il"))]
FORWARD_TRANSFER = [name for name in GOLDEN if name.startswith("mammoth_current_fwt")]
OFFLINE = [name for name in GOLDEN if name.startswith("offline")]
PODNET = [name for name in GOLDEN if name.startswith("podnet")]

# Three tasks of 200 test images. Task 0 is at its best after task 1, and task 1 improves at the end.
CLASS_IL = [[100, 30, None], [120, 160, 20], [80, 164, 180]]
TASK_IL = [[180, 110, None], [170, 190, 90], [160, 190, 196]]
TOTAL = [[200, 200, None], [200, 200, 200], [200, 200, 200]]
INSIDE = ("min-ACC", "WC-ACC", "stability_gap")  # of evaluation points inside the stream (test_points.py)
UNTRAINED = {"class_il": [10, 20, 0], "task_il": [100, 90, 110], "total": [200, 200, 200]}


def exactly(expected):
    return pytest.approx(expected, rel=1e-9, abs=1e-11)


def measured(class_il=CLASS_IL, task_il=TASK_IL, total=TOTAL, untrained=None, anytime=(), **more):
    counts = {"class_il": class_il, "task_il": task_il, "total": total, "untrained": untrained}
    return SimpleNamespace(
        **{"anytime": anytime, "classes": None, "points": None, "boundaries": "sharp", **counts, **more}
    )


def lower_triangle(matrix):
    return np.where(np.tri(len(matrix), dtype=bool), matrix, np.nan)


# -- the published programs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAMMOTH)
def test_online_metrics(name):
    case = GOLDEN[name]
    matrix, untrained = case["in_matrix"], case["in_random_baseline"]
    before = matrix.copy()
    assert metrics.average_accuracies(matrix) == exactly(case["out_mean_accuracy_after_task"])
    assert metrics.average_accuracies(matrix)[-1] == exactly(case["out_final_average"])
    assert metrics.online_forgetting(matrix) == exactly(case["out_forgetting"])
    assert metrics.online_forgetting(lower_triangle(matrix)) == exactly(case["out_forgetting_seen_only"])
    assert metrics.backward_transfer(matrix) == exactly(case["out_bwt"])
    assert metrics.forward_transfer(matrix, untrained) == exactly(case["out_fwt"])
    assert np.array_equal(matrix, before, equal_nan=True)


@pytest.mark.parametrize("name", FORWARD_TRANSFER)
def test_forward_transfer_of_current_mammoth(name):
    case = GOLDEN[name]
    assert metrics.forward_transfer(case["in_matrix"], case["in_random_baseline"]) == exactly(case["out_fwt"])


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_metrics(name):
    case = GOLDEN[name]
    matrix = 100 * case["in_matrix"]
    assert metrics.average_accuracies(matrix) == exactly(case["out_average_after_task"])
    assert metrics.average_accuracies(matrix)[-1] == exactly(case["out_A_f"])
    assert metrics.average_accuracies(matrix).mean() == exactly(case["out_A_a"])
    assert metrics.learning_accuracy(matrix) == exactly(case["out_A_l"])
    assert metrics.offline_forgetting(matrix) == exactly(case["out_F"])
    expected = case["out_F_excluding_last_task"]
    assert metrics.offline_forgetting(matrix, include_last_task=False) == exactly(expected)


@pytest.mark.parametrize("name", PODNET)
def test_podnets_own_metrics_follow_from_ours(name):
    """Its forgetting divides by T + 1 and counts the newest task as minus its accuracy; its averages are rounded."""
    case = GOLDEN[name]
    matrix, num_tasks = case["in_matrix"], len(case["in_matrix"])
    total_drop = num_tasks * metrics.offline_forgetting(matrix)
    assert (total_drop - matrix[-1, -1]) / (num_tasks + 1) == exactly(case["out_forgetting"])
    expected = pytest.approx(case["out_incremental_accuracy"], abs=0.5e-3)
    assert metrics.average_accuracies(matrix).mean() == expected


@pytest.mark.parametrize("name", MAMMOTH + OFFLINE + PODNET)
def test_what_lies_above_the_next_task_has_no_influence(name):
    matrix = GOLDEN[name]["in_matrix"]
    disturbed = np.where(np.triu(np.ones_like(matrix, dtype=bool), k=2), 1e6, matrix)
    for metric in (metrics.online_forgetting, metrics.offline_forgetting):
        assert metric(disturbed) == metric(matrix)
    assert (metrics.average_accuracies(disturbed) == metrics.average_accuracies(matrix)).all()


@pytest.mark.parametrize("seed", range(3))
def test_forgetting_is_learned_minus_final_when_every_old_task_peaks_at_first(seed):
    random = np.random.default_rng(seed)
    matrix = np.sort(random.uniform(0, 100, (6, 6)), axis=0)[::-1]
    learned, final = metrics.learning_accuracy(matrix), metrics.average_accuracies(matrix)[-1]
    matrix = np.where(np.tri(6, dtype=bool), matrix, np.nan)
    assert metrics.offline_forgetting(matrix) == exactly(learned - final)
    assert metrics.online_forgetting(matrix) == exactly(-metrics.backward_transfer(matrix))


# -- the summary of a run ----------------------------------------------------------------------------------------------


def test_summary_of_a_run_by_hand():
    summary = metrics.summarise(measured(untrained=UNTRAINED, anytime=[50.0, 60.0, 70.0, 74.0]))
    assert summary["class_il"].pop("A") == exactly([50, 70, (40 + 82 + 90) / 3])
    assert {summary["class_il"].pop(name) for name in ("A_many", "A_medium", "A_few", "A_AUC", *INSIDE)} == {None}
    assert summary["class_il"] == exactly(
        {
            "A_f": (40 + 82 + 90) / 3,
            "A_a": (50 + 70 + (40 + 82 + 90) / 3) / 3,
            "W_f": (40 + 82 + 90) / 3,
            "W_a": (50 + 70 + (40 + 82 + 90) / 3) / 3,
            "A_l": (50 + 80 + 90) / 3,
            "F": (20 - 2) / 3,
            "F_excluding_last_task": (20 - 2) / 2,
            "BWT": (-10 + 2) / 2,
            "FWT": ((15 - 10) + (10 - 0)) / 2,
            "forgetting": (20 + 0) / 2,
            "AAA": 63.5,
        }
    )
    assert summary["task_il"].pop("A") == exactly([90, 90, (80 + 95 + 98) / 3])
    assert {summary["task_il"].pop(name) for name in INSIDE} == {None}
    assert summary["task_il"] == exactly(
        {
            "A_f": (80 + 95 + 98) / 3,
            "A_a": (90 + 90 + (80 + 95 + 98) / 3) / 3,
            "W_f": (80 + 95 + 98) / 3,
            "W_a": (90 + 90 + (80 + 95 + 98) / 3) / 3,
            "A_l": (90 + 95 + 98) / 3,
            "F": (10 + 0) / 3,
            "F_excluding_last_task": (10 + 0) / 2,
            "BWT": (-10 + 0) / 2,
            "FWT": ((55 - 45) + (45 - 55)) / 2,
            "forgetting": (10 + 0) / 2,
        }
    )


def test_tasks_count_equally_whatever_their_number_of_images():
    counts = [[5, None], [10, 0]]
    total = [[10, None], [10, 1000]]
    assert metrics.summarise(measured(counts, counts, total))["class_il"]["A_f"] == exactly(50)


def test_where_tasks_share_classes_the_accuracy_is_over_all_images_of_those_seen():
    counts = [[5, None, 3], [4, 0, 9], [10, 1, 10]]
    total = [[10, None, 10], [10, 4, 10], [10, 4, 10]]
    summary = metrics.summarise(measured(counts, counts, total, boundaries="blurred"))["class_il"]
    averages = [100 * 8 / 20, 100 * 13 / 24, 100 * 21 / 24]
    assert summary["A"] == exactly(averages)
    assert (summary["A_f"], summary["A_a"]) == exactly((averages[-1], sum(averages) / 3))
    assert (summary["W_f"], summary["W_a"]) == exactly((averages[-1], sum(averages) / 3))


def test_where_tasks_share_classes_only_what_was_measured_from_the_end_of_a_task_on_is_forgotten():
    counts = [[9, 5, 5], [6, 8, 5], [4, 7, 8]]
    total = [[10, 5, 5], [10, 10, 5], [10, 10, 10]]  # of the later tasks, half of the classes have been seen
    summary = metrics.summarise(measured(counts, counts, total, boundaries="blurred"))["class_il"]
    assert summary["forgetting"] == summary["F_excluding_last_task"] == exactly(((90 - 40) + (80 - 70)) / 2)


def test_accuracy_before_training_counts_as_forgotten_where_it_was_measured():
    counts = [[100, 90], [50, 80]]
    total = [[100, 100], [100, 100]]
    assert metrics.summarise(measured(counts, counts, total))["class_il"]["forgetting"] == exactly(50)
    counts = [[40, 90, None], [50, 60, 0], [50, 60, 0]]
    total = [[100, 100, None], [100, 100, 100], [100, 100, 100]]
    assert metrics.summarise(measured(counts, counts, total))["class_il"]["forgetting"] == exactly(30 / 2)


def test_forward_transfer_only_where_it_was_measured():
    lower = [[100, None, None], [120, 160, None], [80, 164, 180]]
    total = [[200, None, None], [200, 200, None], [200, 200, 200]]
    for counts, untrained in ((CLASS_IL, None), (CLASS_IL, {}), (lower, UNTRAINED)):
        summary = metrics.summarise(measured(counts, counts, total if counts is lower else TOTAL, untrained))
        assert summary["class_il"]["FWT"] is None
        assert summary["class_il"]["forgetting"] is not None


@pytest.mark.parametrize("anytime", [[70.0], [40.0, 60.0, 70.0]])
def test_a_run_measured_only_at_its_end_has_its_final_accuracy(anytime):
    """Joint training."""
    none = [None, None]
    summary = metrics.summarise(measured([none, [8, 6]], [none, [9, 9]], [none, [10, 10]], anytime=anytime))
    assert summary["class_il"].pop("A") == [None, exactly(70)]
    assert summary["class_il"].pop("A_f") == summary["class_il"].pop("W_f") == exactly(70)
    assert summary["task_il"]["A_f"] == exactly(90)
    assert set(summary["class_il"].values()) == {None}
    assert len(summary["class_il"]) == 16


@pytest.mark.filterwarnings("error")
def test_a_single_task_has_no_transfer_and_no_forgetting():
    untrained = {"class_il": [1], "task_il": [5], "total": [10]}
    summary = metrics.summarise(measured([[7]], [[9]], [[10]], untrained, [70]))["class_il"]
    assert summary.pop("A") == exactly([70])
    assert summary.pop("A_f") == exactly(70)
    defined = {name: value for name, value in summary.items() if value is not None}
    assert defined == exactly({"A_a": 70, "W_f": 70, "W_a": 70, "A_l": 70, "AAA": 70})


@pytest.mark.parametrize("missing", [(0, 0), (1, 0), (2, 2)])
def test_a_gap_never_gives_a_number(missing):
    counts, total = ([list(row) for row in rows] for rows in (CLASS_IL, TOTAL))
    counts[missing[0]][missing[1]] = total[missing[0]][missing[1]] = None
    summary = metrics.summarise(measured(counts, counts, total))["class_il"]
    assert summary["A_a"] is None
    assert summary["forgetting"] is None
    assert (summary["A_f"] is None) == (missing[0] == 2)
    assert (summary["A_l"] is None) == (missing[0] == missing[1])


def test_a_summary_survives_json_and_can_be_recomputed_from_a_record():
    run = measured(untrained=UNTRAINED, anytime=[50.0, 60.0, 70.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = metrics.summarise(run)
    record = json.loads(json.dumps(vars(run)))
    assert metrics.summarise(SimpleNamespace(**record)) == json.loads(json.dumps(summary, allow_nan=False)) == summary


# -- anytime accuracy --------------------------------------------------------------------------------------------------


def test_one_point_per_task_gives_the_average_incremental_accuracy():
    matrix = metrics.accuracies(CLASS_IL, TOTAL)
    points = metrics.average_accuracies(matrix)
    assert metrics.average_anytime_accuracy(points) == exactly(metrics.average_accuracies(matrix).mean())


def test_no_point_gives_no_number():
    assert np.isnan(metrics.average_anytime_accuracy([]))


def test_a_metric_is_one_declaration():
    lowest = Metric("lowest", "Lowest accuracy at the end", lambda run: run.matrix[-1].min(), scenarios=("task_il",))
    METRICS.register(lowest)
    try:
        summary = metrics.summarise(measured([[7, None], [4, 6]], [[9, None], [8, 9]], [[10, None], [10, 10]]))
        assert summary["task_il"]["lowest"] == exactly(80)
        assert "lowest" not in summary["class_il"]
        with pytest.raises(UserError, match="metric 'lowest' exists already"):
            METRICS.register(lowest)
    finally:
        del METRICS["lowest"]


def test_the_metrics_that_lead_in_a_protocol_are_known():
    assert {name for each in PROTOCOLS.values() for name in each.leading_metrics} <= METRICS.keys()


def test_weighted_accuracy_is_that_on_all_test_images_of_the_tasks_seen():
    """A first task of 40 images and two of 10; what was measured of later tasks does not count."""
    correct = [[30, 5, None], [20, 10, 1], [10, 5, 10]]
    total = [[40, 10, None], [40, 10, 10], [40, 10, 10]]
    found = metrics.summarise(measured(correct, correct, total))
    after = [100 * 30 / 40, 100 * 30 / 50, 100 * 25 / 60]
    assert found["class_il"]["W_f"] == pytest.approx(after[-1])
    assert found["class_il"]["W_a"] == pytest.approx(sum(after) / 3)
    assert found["class_il"]["A_f"] == pytest.approx((25 + 50 + 100) / 3)


def test_accuracy_by_the_number_of_training_images_of_a_class():
    classes = {"trained": [500, 101, 100, 20, 19, 1], "correct": [10, 8, 6, 4, 2, 0], "total": [10] * 6}
    found = metrics.summarise(measured([[30]], [[30]], [[60]], classes=classes))["class_il"]
    assert (found["A_many"], found["A_medium"], found["A_few"]) == exactly((90, 50, 10))


@pytest.mark.parametrize("function", [lambda run: run.matrx[-1].min(), lambda run: "high", lambda run: None])
def test_a_metric_of_a_plugin_that_fails_is_named(function):
    """Rather than its records, which would pass for damaged."""
    METRICS.register(Metric("worst", "The worst task", function))
    try:
        with pytest.raises(PluginError, match="metric 'worst' fails: "):
            metrics.summarise(measured())
    finally:
        del METRICS["worst"]
