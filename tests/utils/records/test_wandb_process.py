"""What is sent of a run; how it arrives is in the tests of the tracker."""

from tests.utils.records.wandb_rig import LINES, LOSSES, RESULT
from utils.records.wandb_process import chart_values, summary_values


def test_every_number_of_a_line_has_its_chart():
    assert chart_values(LINES[0]) == {"train/task": 1, "train/epoch": 1} | {f"train/{k}": v for k, v in LOSSES.items()}
    line = {"kind": "anytime", "step": 1, "task": 0, "class_il": [30.0, None, 60.0], "mean": {"class_il": 50.0}}
    assert chart_values(line) == {
        "anytime_tasks_seen": 1,
        "anytime_class_il/mean": 50.0,  # over images, where tasks are segments
        "anytime_class_il/task_1": 30.0,
        "anytime_class_il/task_3": 60.0,
    }


def test_summary_leaves_out_what_was_not_measured():
    values = summary_values(RESULT)
    assert values["final/task_il/forgetting"] == 5.0
    assert all(isinstance(value, int | float) for value in values.values())
