import json

import pytest

from tests.utils.report.rig import OFFLINE, counts, write_record
from utils.records.collect import collect
from utils.records.selection import select
from utils.report import Report, write_report
from utils.report.norms import TITLE, build_retuning, mean_distances
from utils.report.plots import make_plots

DISTANCES = {
    "stem": {"mean": [None, 0.25], "std": [0.5, 0.125]},
    "last": {"mean": [4.0, 2.0], "std": [1.0, 0.0]},
}


def write_measured(root, norm, finals, retuned, seed=0, distances=DISTANCES, **values):
    folder = root / "group" / f"{norm}-{seed}"
    write_record(folder, {**OFFLINE, "nl": norm, "seed": seed, "retune_norms": 5, **values}, finals)
    path = folder / "result.json"
    norms = {"retuned": retuned and counts(retuned), "distances": distances}
    path.write_text(json.dumps({**json.loads(path.read_text()), "norms": norms}))
    return path


def cells_of(root):
    return select(collect(root, "group"))


def change_of(root, row=0):
    return build_retuning(cells_of(root)).rows[row][1]


def test_accuracy_before_and_after_and_the_difference(tmp_path):
    write_measured(tmp_path, "BN", [40, 50], [52, 58])
    found = build_retuning(cells_of(tmp_path))
    title = "seq-cifar100 ft 2000"
    course = f"{title} Class-IL difference after each task"
    assert found.titles == ("norm", f"{title} Class-IL", f"{title} Task-IL", course)
    assert found.rows == (("BN", "45.00 → 55.00 (+10.00)", "45.00 → 55.00 (+10.00)", "+0.0 +10.0"),)
    assert "After every task, a copy of the network is trained for 5 epochs" in found.caption


def test_differences_after_each_task_are_of_the_tasks_seen_by_then(tmp_path):
    for seed, correct in enumerate(([[50, None], [40, 50]], [[60, None], [42, 48]])):
        path = write_measured(tmp_path, "BN", [40, 50], [0, 0], seed=seed)
        result = json.loads(path.read_text())
        result["norms"]["retuned"]["class_il"] = correct
        path.write_text(json.dumps(result))
    assert build_retuning(cells_of(tmp_path)).rows[0][3] == "−35.0 +0.0"


def test_tasks_after_which_nothing_was_trained_have_no_difference(tmp_path):
    path = write_measured(tmp_path, "BN", [40, 50], [52, 58])
    result = json.loads(path.read_text())
    for matrices in (result["counts"], result["norms"]["retuned"]):
        for name in ("class_il", "task_il", "total"):
            matrices[name][0][0] = None
    path.write_text(json.dumps(result))
    assert build_retuning(cells_of(tmp_path)).rows[0][1::2] == ("45.00 → 55.00 (+10.00)", "– +10.0")


def test_difference_is_that_of_seeds_with_its_spread(tmp_path):
    write_measured(tmp_path, "BN", [40, 40], [50, 50])
    write_measured(tmp_path, "BN", [60, 60], [56, 56], seed=1)
    assert change_of(tmp_path) == "50.00 → 53.00 (+3.00 ± 9.90)"


def test_a_loss_has_a_true_minus(tmp_path):
    write_measured(tmp_path, "BN", [40, 40], [30, 30])
    assert change_of(tmp_path) == "40.00 → 30.00 (−10.00)"


def test_layers_without_anything_to_retune_say_so(tmp_path):
    write_measured(tmp_path, "BN", [40, 50], [52, 58])
    write_measured(tmp_path, "IN", [40, 50], None, distances={})
    assert change_of(tmp_path, 1) == "nothing to re-tune"


def test_runs_that_were_not_asked_have_no_table(tmp_path):
    write_record(tmp_path / "group" / "a", {**OFFLINE, "nl": "BN", "seed": 0}, [40, 50])
    assert build_retuning(cells_of(tmp_path)) is None
    assert not any(name.endswith("distances") for name in make_plots(cells_of(tmp_path)))


@pytest.mark.parametrize(
    "norms",
    [
        {},
        [],
        5,
        {"retuned": None, "distances": {"layer": {"mean": [0.1, 0.2]}}},
        {"retuned": 5, "distances": 5},
        {"retuned": {}, "distances": [1]},
    ],
)
def test_damage_is_that_of_the_record(tmp_path, norms):
    path = write_measured(tmp_path, "BN", [40, 50], [52, 58])
    path.write_text(json.dumps({**json.loads(path.read_text()), "norms": norms}))
    write_measured(tmp_path, "LN", [40, 50], [52, 58])
    assert [row[1] for row in build_retuning(cells_of(tmp_path)).rows] == ["45.00 → 55.00 (+10.00)"]
    assert next(iter(cells_of(tmp_path).values()))["BN"].reason == "seed 0 damaged record BN-0"


def test_what_was_not_measured_is_a_dash_and_no_plot(tmp_path):
    path = write_measured(tmp_path, "BN", [40, 50], [52, 58])
    path.write_text(json.dumps({**json.loads(path.read_text()), "norms": None}))
    assert build_retuning(cells_of(tmp_path)).rows[0][1] == "–"
    assert mean_distances(next(iter(cells_of(tmp_path).values()))["BN"], "mean") is None


def test_distances_are_means_over_seeds_by_layer_and_task(tmp_path):
    write_measured(tmp_path, "BN", [40, 50], [52, 58])
    further = {name: {kind: [2.0, 4.0] for kind in pair} for name, pair in DISTANCES.items()}
    write_measured(tmp_path, "BN", [40, 50], [52, 58], seed=1, distances=further)
    cell = next(iter(cells_of(tmp_path).values()))["BN"]
    assert mean_distances(cell, "std").tolist() == [[1.25, 2.0625], [1.5, 2.0]]
    assert mean_distances(cell, "mean")[1].tolist() == [3.0, 3.0]


def test_being_measured_is_no_setting_that_was_tried(tmp_path):
    write_measured(tmp_path, "BN", [40, 50], [52, 58])
    write_measured(tmp_path, "BN", [40, 50], None, seed=1, retune_norms=0)
    cell = next(iter(cells_of(tmp_path).values()))["BN"]
    assert cell.num_settings == 1
    assert change_of(tmp_path) == "45.00 → 55.00 (+10.00)"


def test_report_has_the_table_and_the_plot(tmp_path):
    write_measured(tmp_path, "BN", [40, 50], [52, 58])
    texts = {path.name: path.read_bytes().decode(errors="replace") for path in write_report(Report(tmp_path, "group"))}
    for name in ("table.md", "report.html"):
        assert TITLE in texts[name]
        assert "45.00 → 55.00 (+10.00)" in texts[name]
    assert 'alt="seq-cifar100 ft 2000 distances"' in texts["report.html"]


def test_16_groups_are_a_row_of_their_own(tmp_path):
    for groups in (8, 16):
        values = {**OFFLINE, "nl": "CN", "seed": 0, "num_groups": groups}
        write_record(tmp_path / "group" / f"CN-{groups}", values, [40, groups])
    write_record(tmp_path / "group" / "TBBN", {**OFFLINE, "nl": "TBBN", "seed": 0}, [40, 50])
    assert {norm: cell.num_settings for norm, cell in next(iter(cells_of(tmp_path).values())).items()} == {
        "CN": 1,
        "CN*": 1,
        "TBBN": 1,
    }
    texts = {path.name: path.read_bytes().decode(errors="replace") for path in write_report(Report(tmp_path, "group"))}
    rows = [line.split("|")[1].strip() for line in texts["table.md"].splitlines() if line.startswith("|")]
    assert [row for row in rows if "published" not in row] == ["norm", "---", "CN", r"CN\*", "TBBN"]
    assert r"CN\* is CN --num_groups 16" in texts["table.md"]
    assert "<summary>CN* <span" in texts["report.html"]
