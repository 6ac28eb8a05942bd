import numpy as np
import pytest

from datasets.streams.gaussian import Gaussian

NUM_CLASSES, SIZE, TASKS = 10, 500, 5
LABELS = np.repeat(np.arange(NUM_CLASSES), SIZE)


def arrange(width=1.0, seed=0, sizes=(2,) * TASKS):
    stream = Gaussian(n_tasks=TASKS, gaussian_width=width)
    return stream.arrange(LABELS, np.repeat(np.arange(len(sizes)), sizes), seed)


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_every_class_is_a_gaussian_in_time(width):
    """Inside the stream, where images come at an even rate, the place of an image tells its time."""
    rows = arrange(width).rows
    times = np.empty(len(rows))
    times[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    for label in range(4, 6):
        found = times[label == LABELS]
        assert found.mean() == pytest.approx((label + 0.5) / NUM_CLASSES, abs=0.02)
        assert found.std() == pytest.approx(width / NUM_CLASSES, rel=0.15)


def test_peaks_follow_the_order_of_the_labels():
    rows = arrange().rows
    places = np.argsort(rows)
    means = [places[label == LABELS].mean() for label in range(NUM_CLASSES)]
    assert means == sorted(means)


def test_segments_are_neighbouring_parts_of_the_stream_and_every_image_comes_once():
    found = arrange()
    assert sorted(found.rows) == list(range(len(LABELS)))
    assert found.starts[0] == 0
    assert found.starts[-1] == len(LABELS)
    assert (np.diff(found.starts) > 0).all()
    assert np.diff(found.starts)[2] == pytest.approx(len(LABELS) / TASKS, rel=0.1)


def test_a_narrow_gaussian_is_a_split_in_the_order_of_the_classes():
    found = arrange(width=0.0, sizes=(3, 2, 2, 2, 1))
    np.testing.assert_array_equal(LABELS[found.rows], LABELS)
    np.testing.assert_array_equal(np.diff(found.starts) // SIZE, (3, 2, 2, 2, 1))


def test_it_depends_on_the_seed_alone():
    np.testing.assert_array_equal(arrange().rows, arrange().rows)
    assert (arrange().rows != arrange(seed=1).rows).any()
