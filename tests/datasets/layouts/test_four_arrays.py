import io
import os
import pickle

import numpy as np
import pytest

from tests.datasets.small import small_content, small_dataset, write_four_arrays
from utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return write_four_arrays(tmp_path / "small", small_content())


def test_arrays_are_read(folder, tmp_path):
    arrays = small_dataset().load(tmp_path)
    for name, array in small_content().items():
        np.testing.assert_array_equal(getattr(arrays, name), array)
    assert isinstance(arrays.train_x, np.memmap)
    assert small_dataset().describe(tmp_path) == (
        f"seq-small: four arrays in {folder}, 40 training and 12 test images of 32x32 in 4 classes"
    )


def test_description_tells_where_the_numbers_are_not_the_original_ones(tmp_path):
    write_four_arrays(tmp_path / "small", small_content(num_train=20))
    assert "20 training and 12 test images (the original has 40 and 12)" in small_dataset().describe(tmp_path)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def zip_up(file):
    buffer = io.BytesIO()
    np.savez(buffer, np.zeros(3))
    file.write_bytes(buffer.getvalue())


def replace(old, new):
    def spoil(file):
        content = file.read_bytes()
        assert old in content
        file.write_bytes(content.replace(old, new, 1))

    return spoil


def save(array):
    return lambda file: np.save(file, array)


@pytest.mark.parametrize("name", ["train_x", "train_y", "test_x", "test_y"])
@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (cut, "cannot be read"),
        (lambda file: file.write_bytes(b""), "cannot be read"),
        (lambda file: file.write_bytes(b"no array at all"), "cannot be read"),
        (lambda file: file.write_bytes(file.read_bytes()[:9]), "cannot be read"),
        (lambda file: file.write_bytes(b"PK\x03\x04 and no archive"), "cannot be read"),
        (replace(b"'shape': (", b"'shape': [("), "cannot be read"),
        (replace(b"'shape': (", b"'shape': (9999999999,"), "cannot be read"),
        (replace(b"'fortran_order'", b"'fortran_ordxr'"), "cannot be read"),
        (replace(b"False, ", b"F(lse, "), "cannot be read"),
        (zip_up, "archive"),
        (lambda file: file.unlink(), "lacks"),
        (lambda file: (file.unlink(), file.mkdir()), "cannot be read"),
        (save(np.zeros((3, 3), dtype=np.float32)), "float32"),
        (save(np.array(7)), "int64"),
        (save(np.array([None, 7])), "holds Python objects; save one array of numbers"),
    ],
)
def test_spoilt_file_is_named_in_one_line(folder, tmp_path, name, spoil, word):
    file = folder / f"{name}.npy"
    spoil(file)
    with pytest.raises(UserError) as caught:
        small_dataset().load(tmp_path)
    message = str(caught.value)
    assert word in message
    assert str(folder) in message
    assert f"{name}.npy" in message
    assert "\n" not in message
    assert message in small_dataset().describe(tmp_path)


def test_other_size_is_refused(tmp_path):
    content = small_content()
    smaller = {name: array[:, :28, :28] if name.endswith("x") else array for name, array in content.items()}
    write_four_arrays(tmp_path / "small", smaller)
    with pytest.raises(UserError, match=r"train_x\.npy has images of 28x28; seq-small needs 32x32"):
        small_dataset().load(tmp_path)


class Canary:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (self.file,)


@pytest.mark.parametrize("name", ["train_x", "train_y"])
@pytest.mark.parametrize("plain", [False, True])
def test_nothing_is_unpickled(folder, tmp_path, name, plain):
    canary = Canary(str(tmp_path / "executed"))
    file = folder / f"{name}.npy"
    if plain:
        file.write_bytes(pickle.dumps(canary))
    else:
        np.save(file, np.array([canary], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=f"{name}.npy"):
        small_dataset().load(tmp_path)
    assert not (tmp_path / "executed").exists()


# -- other forms -----------------------------------------------------------------------------------------------------

CONTENT = small_content()
GREY = np.repeat(CONTENT["train_x"][..., :1], 3, axis=3)
WIDE = np.pad(CONTENT["train_x"], ((0, 0), (0, 0), (3, 4), (0, 0)))


@pytest.mark.parametrize(
    ("name", "stored", "expected", "conversion"),
    [
        ("train_x", GREY[..., 0], GREY, "train_x.npy is grey and was converted to RGB"),
        ("train_x", GREY[..., :1], GREY, "train_x.npy is grey and was converted to RGB"),
        ("train_x", CONTENT["train_x"].transpose(0, 3, 1, 2), CONTENT["train_x"], "train_x.npy has channels first"),
        ("train_x", WIDE, CONTENT["train_x"], "train_x.npy has images of 32x39, cropped to their centre of 32x32"),
        ("train_y", CONTENT["train_y"].astype(np.int32), CONTENT["train_y"], "train_y.npy has labels of type int32"),
        ("test_y", CONTENT["test_y"].astype(np.uint8), CONTENT["test_y"], "test_y.npy has labels of type uint8"),
    ],
)
def test_other_forms_are_converted_and_a_note_says_so(tmp_path, name, stored, expected, conversion):
    write_four_arrays(tmp_path / "small", CONTENT | {name: stored})
    arrays = small_dataset().load(tmp_path)
    np.testing.assert_array_equal(getattr(arrays, name), expected)
    assert [said[: len(conversion)] for said in arrays.conversions] == [conversion]
    assert f"; {conversion}" in small_dataset().describe(tmp_path)
    write_four_arrays(tmp_path / "converted" / "small", CONTENT | {name: expected})
    converted = small_dataset().load(tmp_path / "converted")
    assert converted.conversions == ()
    assert converted.fingerprint() == arrays.fingerprint()


def test_grey_channels_first_of_wide_images_is_said_in_three_notes(tmp_path):
    write_four_arrays(tmp_path / "small", CONTENT | {"train_x": WIDE[..., :1].transpose(0, 3, 1, 2)})
    arrays = small_dataset().load(tmp_path)
    np.testing.assert_array_equal(arrays.train_x, GREY)
    assert len(arrays.conversions) == 3


@pytest.mark.parametrize(
    ("changes", "settings", "words"),
    [
        ({"train_x": WIDE}, {"non_square": "refuse"}, r"train_x\.npy has images of 32x39; they must be square"),
        (
            {"train_x": CONTENT["train_x"] / 255},
            {},
            r"float64; .* save \(255 \* images\)\.round\(\)\.astype\('uint8'\)$",
        ),
        ({"train_x": CONTENT["train_x"] / 1.0}, {}, r"float64; .* save images\.round\(\)\.astype\('uint8'\)$"),
        (
            {"train_x": CONTENT["train_x"] / 50 - 1},
            {},
            r"float64; .* the values are from -1 to 4\.1: undo their normal",
        ),
        *(
            ({"train_x": CONTENT["train_x"] + value}, {}, r"float64; .*; some values are NaN or infinite: replace them")
            for value in (np.nan, np.inf)
        ),
        ({"train_y": CONTENT["train_y"].astype(np.int32) - 1}, {}, r"train_y\.npy has label -1 in row"),
        ({"train_y": CONTENT["train_y"].astype(np.uint64) + 2**63}, {}, r"train_y\.npy has label 9223372036854775811"),
    ],
)
def test_what_has_no_one_conversion_is_refused(tmp_path, changes, settings, words):
    write_four_arrays(tmp_path / "small", CONTENT | changes)
    with pytest.raises(UserError, match=words):
        small_dataset(**settings).load(tmp_path)
