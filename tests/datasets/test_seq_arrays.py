import numpy as np
import pytest

from datasets.seq_arrays import SeqArrays
from tests.datasets.small import small_content, write_four_arrays
from utils.errors import UserError


def write(folder, **changes):
    return write_four_arrays(folder, small_content() | changes)


def test_everything_is_the_datas_own(tmp_path):
    write(tmp_path)
    dataset = SeqArrays()
    arrays = dataset.load(tmp_path)
    scaled = small_content()["train_x"].astype(np.float64) / 255
    np.testing.assert_allclose(arrays.mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(arrays.std, scaled.std(axis=(0, 1, 2)), rtol=1e-12)
    assert arrays.class_names == ("0", "1", "2", "3")
    assert "40 training and 12 test images of 32x32 in 4 classes" in dataset.describe(tmp_path)


def test_images_are_augmented_only_if_asked(tmp_path):
    write(tmp_path)
    for protocol in ("online", "any other"):
        dataset = SeqArrays()
        plain = dataset.transform(protocol, dataset.load(tmp_path))
        assert (plain.crop_padding, plain.flip) == (0, False)
        dataset = SeqArrays(crop_padding=3, flip=True)
        asked = dataset.transform(protocol, dataset.load(tmp_path))
        assert (asked.crop_padding, asked.flip) == (3, True)


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({"crop_padding": 32}, {}, "--crop_padding must be below .* 32"),
        ({}, {"train_y": np.arange(40) % 4 + 1}, r"train_y\.npy has label 1 but not label 0"),
        ({}, {"train_y": np.arange(40) % 4 - 1}, r"train_y\.npy has label -1"),
        ({}, {"train_y": np.arange(40) % 4 * 2}, r"train_y\.npy has label 2 but not label 1"),
        ({}, {"train_y": np.arange(40) % 4 * 10**15}, r"train_y\.npy has label 1000000000000000"),
        ({}, {"train_y": np.arange(40.0)}, r"train_y\.npy has type float64"),
        ({}, {"train_y": np.zeros(0, dtype=np.int64)}, r"train_y\.npy"),
        ({}, {"test_y": np.arange(12) % 6}, r"test_y\.npy has label 4"),
        ({}, {"train_x": np.zeros((40, 32, 32, 3), dtype=np.uint8)}, r"train_x\.npy has a channel of a single"),
        (
            {},
            {"train_x": np.full((40, 32, 32, 3), 77, dtype=np.uint8)},
            r"train_x\.npy has a channel of a single",
        ),
        ({}, {"train_x": np.zeros((40, 32), dtype=np.uint8)}, r"train_x\.npy has shape"),
        ({}, {"train_x": np.zeros((0, 32, 32, 3), dtype=np.uint8)}, r"train_x\.npy is empty"),
    ],
)
def test_bad_data_is_refused_in_one_line(tmp_path, options, changes, words):
    write(tmp_path, **changes)
    with pytest.raises(UserError, match=words) as caught:
        SeqArrays(**options).load(tmp_path)
    assert "\n" not in str(caught.value)
