from pathlib import Path

import numpy as np
import pytest

from utils.config.registry import DATASETS, ROOT


@pytest.fixture(scope="module")
def digits():
    return DATASETS.get("seq-digits")().load(Path("nowhere"))


@pytest.fixture(scope="module")
def stored():
    with np.load(ROOT / "datasets" / "digits.npz") as file:
        return file["images"], file["labels"]


def test_there_are_1797_images(digits, stored):
    assert len(digits.train_x) + len(digits.test_x) == len(stored[0]) == 1797
    assert digits.train_x.shape[1:] == (16, 16, 3)
    assert digits.train_x.dtype == np.uint8
    assert set(np.unique(digits.train_x)) == {round(value * 255 / 16) for value in range(17)}


def test_every_fifth_image_of_a_class_is_test(digits, stored):
    images, labels = stored
    for label in range(10):
        of_class = images[labels == label]
        rows = np.arange(len(of_class))
        for split, chosen in (("test", rows % 5 == 4), ("train", rows % 5 != 4)):
            ours = getattr(digits, f"{split}_x")[getattr(digits, f"{split}_y") == label]
            expected = np.rint(of_class[chosen] * 255.0 / 16)
            np.testing.assert_array_equal(ours[:, ::2, ::2, 0], expected)


def test_pixels_are_doubled_and_channels_equal(digits):
    for images in (digits.train_x, digits.test_x):
        for row, column, channel in ((0, 1, 0), (1, 0, 1), (1, 1, 2)):
            np.testing.assert_array_equal(images[:, row::2, column::2, channel], images[:, ::2, ::2, 0])


def test_stream_and_transform(digits):
    dataset = DATASETS.get("seq-digits")()
    transform = dataset.transform("online", digits)
    assert (dataset.num_tasks, transform.crop_padding, transform.flip) == (5, 2, False)
    assert transform.mean == transform.std == (0.5, 0.5, 0.5)
