import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.utils.report.rig import ONLINE, run, write_points, write_record
from tests.utils.report.test_norms import cells_of, write_measured
from utils.records.collect import collect
from utils.records.selection import select
from utils.report.plots import Layer, draw_distances, draw_matrices, draw_steps, make_plots


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
    for plot in plots.values():
        image = Image.open(io.BytesIO(plot.png))
        assert image.format == "PNG"
        assert image.width > 200
        assert Image.open(io.BytesIO(plot.narrow)).width < 600
        assert len(plot.png) < 100_000
        assert plot.pdf.startswith(b"%PDF")
        assert b"<svg" in plot.svg


def test_same_records_give_the_same_bytes(cells):
    first, second = make_plots(cells), make_plots(cells)
    assert first == second
    for plot in first.values():
        assert not re.search(rb"20\d\d-\d\d|D:20\d\d|[Mm]atplotlib v", plot.pdf + plot.svg)


def test_a_layer_keeps_its_colour_whatever_stands_beside_it():
    blue = "#0072b2"
    for others in ([], ["BN", "GN", "zzz"]):
        runs = [run(norm, 0, metrics(50.0, 60.0)) for norm in others]
        plots = make_plots(select([*runs, run("TBBN", 0, metrics(80.0, 90.0))]))
        assert has_colour(plots["seq-digits er 200 accuracy"].png, blue)
        assert has_colour(plots["seq-digits er 200 forgetting"].png, blue)
    without = make_plots(select([run("BN", 0, metrics(50.0, 60.0))]))
    assert not has_colour(without["seq-digits er 200 accuracy"].png, blue)


def test_nothing_is_drawn_of_what_was_not_measured():
    assert make_plots({}) == {}
    assert make_plots(select([run("BN", 0, None, state="diverged", reason="diverged")])) == {}
    joint = {"A": [None, 70.0], "A_f": 70.0, "forgetting": None}
    assert list(make_plots(select([run("BN", 0, joint)]))) == ["seq-digits er 200 accuracy"]


def test_records_are_not_read_again_once_they_are_collected(cells):
    ((_, norms),) = cells.items()
    for cell in norms.values():
        (cell.runs[0].folder / "result.json").write_text("{")
        (cell.runs[1].folder / "result.json").unlink()
    assert len(make_plots(cells)) == 3


@pytest.mark.parametrize("name", ["a$\\frac$ $", "\ud800", "\x00\n", "x" * 10_000, "$\\nothing{$"], ids=ascii)
def test_names_from_users_are_text_of_bounded_length(name):
    plots = make_plots(select([run(name, 0, metrics(50.0, 60.0), dataset=name)]))
    assert len(plots) == 2
    assert all(Image.open(io.BytesIO(plot.png)).width < 2000 for plot in plots.values())


def test_matrices_of_both_scenarios_are_shown_where_both_were_measured(tmp_path):
    write_record(tmp_path / "group" / "run", {**ONLINE, "nl": "BN", "seed": 0}, [50, 60])
    sizes = {}
    for measured in (("class_il", "task_il"), ("class_il",)):
        path = tmp_path / "group" / "run" / "result.json"
        result = json.loads(path.read_text())
        for scenario in {"class_il", "task_il"} - set(measured):
            result["counts"][scenario] = [[None, None], [None, None]]
        path.write_text(json.dumps(result))
        cells = select(collect(tmp_path, "group"))
        image = Image.open(io.BytesIO(make_plots(cells)["seq-digits er 200 matrix"].png))
        sizes[measured] = image.height
    assert sizes["class_il", "task_il"] - sizes[("class_il",)] == pytest.approx(1.75 * 110, abs=2)


def test_matrices_of_more_tasks_and_layers_than_fit_a_row_stay_small(tmp_path):
    for norm in ("BN", "LN", "IN", "GN", "SN", "BRN", "CN", "TBBN", "AdaB2N"):
        write_record(tmp_path / "group" / norm, {**ONLINE, "nl": norm, "seed": 0}, [50] * 20)
    plots = make_plots(select(collect(tmp_path, "group")))
    assert len(plots) == 3
    png = plots["seq-digits er 200 matrix"].png
    assert Image.open(io.BytesIO(png)).size == (pytest.approx(1144, abs=5), pytest.approx(886, abs=5))
    assert len(png) < 100_000


def distances_of(root):
    (norms,) = cells_of(root).values()
    return draw_distances([Layer(norm, cell, "black", "o") for norm, cell in norms.items()])


def panels(figure):
    return [axes for axes in figure.axes if axes.get_title()]


def test_a_panel_per_norm_layer_and_kind_on_one_scale(tmp_path):
    write_measured(tmp_path, "BN", [40, 50], [52, 58])
    write_measured(tmp_path, "TBBN", [40, 50], [52, 58], distances={"a": {"mean": [1.0, 8.0], "std": [0.2, 0.3]}})
    write_measured(tmp_path, "IN", [40, 50], None, distances={})
    figure = distances_of(tmp_path)
    assert [axes.get_title() for axes in panels(figure)] == ["BN", "TBBN"] * 2
    images = [axes.get_images()[0] for axes in panels(figure)]
    assert [image.get_array().shape for image in images] == [(2, 2), (1, 2)] * 2
    assert images[0].norm is images[1].norm
    assert (images[0].norm.vmin, images[0].norm.vmax) == pytest.approx((0.25, 8.0))
    np.testing.assert_array_equal(images[0].get_array().filled(np.nan), [[np.nan, 0.25], [4.0, 2.0]])


def test_the_scale_ends_three_decades_below_the_largest(tmp_path):
    write_measured(tmp_path, "BN", [40, 50], [52, 58], distances={"a": {"mean": [1e-9, 10.0], "std": [0.0, 0.0]}})
    images = [axes.get_images()[0] for axes in panels(distances_of(tmp_path))]
    assert (images[0].norm.vmin, images[0].norm.vmax) == pytest.approx((0.01, 10.0))


def test_equal_distances_and_zeros_can_be_drawn(tmp_path):
    write_measured(tmp_path, "BN", [40, 50], [52, 58], distances={"a": {"mean": [2.0, 2.0], "std": [0.0, None]}})
    file = io.BytesIO()
    distances_of(tmp_path).savefig(file)
    assert Image.open(file).width > 100


def test_nothing_is_drawn_of_layers_without_running_statistics(tmp_path):
    write_measured(tmp_path, "LN", [40, 50], [52, 58], distances={})
    assert distances_of(tmp_path) is None


# -- Inside the stream ------------------------------------------------------------------------------------------------


def curves_of(root):
    (norms,) = cells_of(root).values()
    figure = draw_steps([Layer(norm, cell, "black", "o") for norm, cell in norms.items()])
    assert [axes.get_title() for axes in figure.axes] == ["Class-IL", "Task-IL"]
    curve, *ends = figure.axes[0].get_lines()
    return curve.get_xdata(), curve.get_ydata(), [end.get_xdata()[0] for end in ends]


def test_accuracy_over_steps_is_the_mean_over_seeds_with_the_ends_of_tasks(tmp_path):
    write_points(tmp_path, "BN", 0)
    write_points(tmp_path, "BN", 1, right=(7, 8, 2, 8))
    steps, accuracy, ends = curves_of(tmp_path)
    assert list(steps) == [2, 3, 5, 6]
    assert list(accuracy) == [60, 80, 30, 70]
    assert ends == [3]


def test_seeds_whose_tasks_end_elsewhere_are_averaged_where_both_were_evaluated(tmp_path):
    write_points(tmp_path, "BN", 0)
    write_points(tmp_path, "BN", 1, steps=(2, 4, 5, 6), right=(7, 8, 2, 8))
    steps, accuracy, ends = curves_of(tmp_path)
    assert list(steps) == [2, 5, 6]
    assert list(accuracy) == [60, 30, 70]
    assert ends == []


def test_runs_that_were_evaluated_inside_have_a_plot_of_it(tmp_path, cells):
    write_points(tmp_path, "GN", 0)
    plots = make_plots(select(collect(tmp_path, "group")))
    assert "seq-digits er 200 steps" in plots
    assert "seq-digits er 200 steps" not in make_plots(cells)


@pytest.mark.parametrize("is_transfer", [False, True])
def test_accuracies_before_a_task_are_drawn_unless_they_are_forward_transfer(tmp_path, is_transfer):
    write_record(tmp_path / "group" / "BN-0", {**ONLINE, "nl": "BN", "seed": 0}, [40, 50])
    path = tmp_path / "group" / "BN-0" / "result.json"
    result = json.loads(path.read_text())
    for name, value in {"class_il": 20, "task_il": 30, "total": 100}.items():
        result["counts"][name][0][1] = value
    none = {"class_il": [0, 0], "task_il": [0, 0], "total": [100, 100]}
    result |= {"untrained": none} if is_transfer else {"boundaries": "blurred"}
    path.write_text(json.dumps(result))
    ((_, norms),) = select(collect(tmp_path, "group")).items()
    figure = draw_matrices([Layer("BN", norms["BN"], "#000000", "o")])
    assert ("20" in [text.get_text() for text in figure.axes[0].texts]) == (not is_transfer)
