import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from tests.utils.report.test_norms import cells_of, write_measured
from utils.report.norm_plots import draw_distances


def new_figure(width, height):
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw(root):
    (norms,) = cells_of(root).values()
    return draw_distances(norms, new_figure)


def panels(figure):
    return [axes for axes in figure.axes if axes.get_title()]


def test_a_panel_per_norm_layer_and_kind_on_one_scale(tmp_path):
    write_measured(tmp_path, "BN", [40, 50], [52, 58])
    write_measured(tmp_path, "TBBN", [40, 50], [52, 58], distances={"a": {"mean": [1.0, 8.0], "std": [0.2, 0.3]}})
    write_measured(tmp_path, "IN", [40, 50], None, distances={})
    figure = draw(tmp_path)
    assert [axes.get_title() for axes in panels(figure)] == ["BN", "TBBN"] * 2
    images = [axes.get_images()[0] for axes in panels(figure)]
    assert [image.get_array().shape for image in images] == [(2, 2), (1, 2)] * 2
    assert images[0].norm is images[1].norm
    assert (images[0].norm.vmin, images[0].norm.vmax) == pytest.approx((0.25, 8.0))
    np.testing.assert_array_equal(images[0].get_array().filled(np.nan), [[np.nan, 0.25], [4.0, 2.0]])


def test_the_scale_ends_three_decades_below_the_largest(tmp_path):
    write_measured(tmp_path, "BN", [40, 50], [52, 58], distances={"a": {"mean": [1e-9, 10.0], "std": [0.0, 0.0]}})
    images = [axes.get_images()[0] for axes in panels(draw(tmp_path))]
    assert (images[0].norm.vmin, images[0].norm.vmax) == pytest.approx((0.01, 10.0))


def test_equal_distances_and_zeros_can_be_drawn(tmp_path):
    write_measured(tmp_path, "BN", [40, 50], [52, 58], distances={"a": {"mean": [2.0, 2.0], "std": [0.0, None]}})
    file = io.BytesIO()
    draw(tmp_path).savefig(file)
    assert Image.open(file).width > 100


def test_nothing_is_drawn_of_layers_without_running_statistics(tmp_path):
    write_measured(tmp_path, "LN", [40, 50], [52, 58], distances={})
    assert draw(tmp_path) is None
