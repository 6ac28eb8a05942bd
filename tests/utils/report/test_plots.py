import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.utils.report.rig import ONLINE, run, write_record
from utils.records.collect import collect
from utils.records.selection import select
from utils.report.plots import make_plots


def metrics(*accuracy, forgetting=5.0):
    return {"A": list(accuracy), "A_f": accuracy[-1], "forgetting": forgetting}


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)


def has_colour(png, colour):
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return bool((np.abs(pixels(png).astype(int) - wanted).max(axis=1) < 3).any())


@pytest.fixture
def cells(tmp_path):
    for norm, values in {"BN": [40, 50], "TBBN": [60, 70]}.items():
        for seed in (0, 1):
            write_record(tmp_path / "group" / f"{norm}-{seed}", {**ONLINE, "nl": norm, "seed": seed}, values)
    return select(collect(tmp_path, "group"))


def test_every_kind_of_plot_of_every_column(cells):
    plots = make_plots(cells)
    assert sorted(plots) == [f"seq-digits er 200 {kind}" for kind in ("accuracy", "forgetting", "matrix")]
    for png in plots.values():
        image = Image.open(io.BytesIO(png))
        assert image.format == "PNG"
        assert image.width > 200
        assert len(png) < 100_000


def test_same_records_give_the_same_bytes(cells):
    assert make_plots(cells) == make_plots(cells)


def test_a_layer_keeps_its_colour_whatever_stands_beside_it():
    blue = "#0072b2"
    for others in ([], ["BN"], ["BN", "GN", "zzz"]):
        runs = [run(norm, 0, metrics(50.0, 60.0)) for norm in others]
        plots = make_plots(select([*runs, run("TBBN", 0, metrics(80.0, 90.0))]))
        assert has_colour(plots["seq-digits er 200 accuracy"], blue)
        assert has_colour(plots["seq-digits er 200 forgetting"], blue)
    without = make_plots(select([run("BN", 0, metrics(50.0, 60.0))]))
    assert not has_colour(without["seq-digits er 200 accuracy"], blue)


def test_nothing_is_drawn_of_what_was_not_measured():
    assert make_plots({}) == {}
    assert make_plots(select([run("BN", 0, None, status="diverged", reason="diverged")])) == {}
    joint = {"A": [None, 70.0], "A_f": 70.0, "forgetting": None}
    assert list(make_plots(select([run("BN", 0, joint)]))) == ["seq-digits er 200 accuracy"]


def test_records_damaged_after_they_were_collected_are_left_out(cells):
    ((_, norms),) = cells.items()
    for cell in norms.values():
        (cell.runs[0].folder / "result.json").write_text("{")
    assert "seq-digits er 200 matrix" in make_plots(cells)
    for cell in norms.values():
        (cell.runs[1].folder / "result.json").unlink()
    assert "seq-digits er 200 matrix" not in make_plots(cells)


@pytest.mark.parametrize("name", ["a$\\frac$ $", "\ud800", "\x00\n", "x" * 10_000, "$\\nothing{$"], ids=ascii)
def test_names_from_users_are_text_of_bounded_length(name):
    plots = make_plots(select([run(name, 0, metrics(50.0, 60.0), dataset=name)]))
    assert len(plots) == 2
    assert all(Image.open(io.BytesIO(png)).width < 2000 for png in plots.values())


def test_more_tasks_and_layers_than_fit_a_row(tmp_path):
    for norm in ("BN", "LN", "IN", "GN", "SN", "CN"):
        write_record(tmp_path / "group" / norm, {**ONLINE, "nl": norm, "seed": 0}, [50] * 20)
    assert len(make_plots(select(collect(tmp_path, "group")))) == 3


def test_matrices_of_both_scenarios_are_shown_where_both_were_measured(tmp_path):
    write_record(tmp_path / "group" / "run", {**ONLINE, "nl": "BN", "seed": 0}, [50, 60])
    cells = select(collect(tmp_path, "group"))
    sizes = {}
    for measured in (("class_il", "task_il"), ("class_il",)):
        path = tmp_path / "group" / "run" / "result.json"
        result = json.loads(path.read_text())
        for scenario in {"class_il", "task_il"} - set(measured):
            result["counts"][scenario] = [[None, None], [None, None]]
        path.write_text(json.dumps(result))
        image = Image.open(io.BytesIO(make_plots(cells)["seq-digits er 200 matrix"]))
        sizes[measured] = image.height
    assert sizes["class_il", "task_il"] - sizes[("class_il",)] == pytest.approx(1.75 * 110, abs=2)


def test_matrices_of_a_wide_study_stay_small(tmp_path):
    for norm in ("BN", "LN", "IN", "GN", "SN", "BRN", "CN", "TBBN", "AdaB2N"):
        write_record(tmp_path / "group" / norm, {**ONLINE, "nl": norm, "seed": 0}, [50] * 20)
    png = make_plots(select(collect(tmp_path, "group")))["seq-digits er 200 matrix"]
    assert Image.open(io.BytesIO(png)).size == (pytest.approx(1144, abs=5), pytest.approx(886, abs=5))
    assert len(png) < 100_000
