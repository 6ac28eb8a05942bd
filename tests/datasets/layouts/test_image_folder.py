import numpy as np
import pytest
from PIL import Image

from tests.datasets.small import small_content, small_dataset, write_four_arrays, write_image_folder
from utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return write_image_folder(tmp_path / "small", small_content())


def test_images_are_read_class_by_class(folder, tmp_path):
    arrays, content = small_dataset().load(tmp_path), small_content()
    for split in ("train", "test"):
        order = np.argsort(content[f"{split}_y"], kind="stable")
        np.testing.assert_array_equal(getattr(arrays, f"{split}_x"), content[f"{split}_x"][order])
        np.testing.assert_array_equal(getattr(arrays, f"{split}_y"), content[f"{split}_y"][order])
    assert small_dataset().describe(tmp_path) == f"seq-small: image folder {folder}, 40 training and 12 test images"


def test_same_images_have_the_fingerprint_of_the_arrays(folder, tmp_path):
    write_four_arrays(tmp_path / "arrays" / "small", small_content())
    assert small_dataset().load(tmp_path).fingerprint() == small_dataset().load(tmp_path / "arrays").fingerprint()


@pytest.mark.parametrize("name", ["num_classes", "image_size"])
def test_a_dataset_whose_classes_or_size_are_not_set_says_what_to_set(folder, tmp_path, name):
    dataset = small_dataset()
    setattr(dataset, name, None)
    with pytest.raises(UserError, match=f"^class Small sets `{name}` to None; give "):
        dataset.load(tmp_path)
    assert "None" not in dataset.layouts[-1].wanted(tmp_path, dataset)


def test_classes_named_by_numbers_come_by_value(folder, tmp_path):
    for split in ("train", "test"):
        for letter, number in zip("wxyz", ("2", "10", "9", "1"), strict=True):
            (folder / split / letter).rename(folder / split / number)
    content, arrays = small_content(), small_dataset().load(tmp_path)
    for label, original in enumerate((3, 0, 2, 1)):
        np.testing.assert_array_equal(
            arrays.train_x[arrays.train_y == label], content["train_x"][content["train_y"] == original]
        )


def test_hidden_files_and_those_that_systems_leave_are_passed_over(folder, tmp_path):
    before = small_dataset().load(tmp_path).fingerprint()
    (folder / "train" / ".cache").mkdir()
    for name in (".listing", "._0001.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / "train" / "w" / name).write_text("not an image")
    (folder / "test" / "__MACOSX").mkdir()
    assert small_dataset().load(tmp_path).fingerprint() == before


def image(mode, size=(32, 32)):
    return lambda file: Image.new(mode, size).save(file)


def truncate(file):
    Image.fromarray(small_content()["train_x"][0]).save(file)
    file.write_bytes(file.read_bytes()[:600])


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("write", "word"),
    [
        (image("RGB", (32, 30)), "is 32x30; resize it to 32x32"),
        (image("RGB", (64, 64)), "is 64x64; resize it to 32x32"),
        (image("RGBA"), "mode RGBA"),
        (image("P"), "mode P"),
        (truncate, "cannot be read"),
        (lambda file: file.write_bytes(b""), "cannot be read"),
        (lambda file: file.write_text("some text"), "cannot be read"),
        (lambda file: file.mkdir(), "cannot be read"),
    ],
)
def test_bad_image_is_named(folder, tmp_path, split, write, word):
    file = folder / split / "x" / "zzz.png"
    write(file)
    with pytest.raises(UserError) as caught:
        small_dataset().load(tmp_path)
    assert str(caught.value).startswith(str(file))
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_many_bad_images_the_first_are_named(folder, tmp_path):
    bad = [folder / split / name / "zzz.png" for split in ("train", "test") for name in "wy"]
    for file, write in zip(bad, (truncate, image("P"), truncate, truncate), strict=True):
        write(file)
    with pytest.raises(UserError) as caught:
        small_dataset().load(tmp_path)
    message = str(caught.value)
    assert all(str(file) in message for file in bad[:3])
    assert "mode P" in message
    assert message.endswith("cannot be read as an image; replace or remove it and 1 more")


def test_missing_class_folder_is_named(folder, tmp_path):
    (folder / "test" / "y").rename(folder / "v")
    with pytest.raises(UserError, match="test lacks the class folder y"):
        small_dataset().load(tmp_path)


def test_surplus_class_folder_is_named(folder, tmp_path):
    (folder / "test" / "surplus").mkdir()
    with pytest.raises(UserError, match="train lacks the class folder surplus"):
        small_dataset().load(tmp_path)


def test_wrong_number_of_classes_is_told(folder, tmp_path):
    for split in ("train", "test"):
        (folder / split / "y").rename(folder / f"{split}-y")
    with pytest.raises(UserError, match="3 class folders; seq-small needs 4"):
        small_dataset().load(tmp_path)


@pytest.mark.parametrize(("names", "missing"), [("abcd", "each class; missing: c$"), ("wxyz", "one for each class$")])
def test_missing_classes_are_named_where_the_others_have_their_names(folder, tmp_path, names, missing):
    for split in ("train", "test"):
        for letter, name in zip("wxyz", names, strict=True):
            (folder / split / letter).rename(folder / split / f"new-{name}")
        for name in names:
            (folder / split / f"new-{name}").rename(folder / split / name)
        (folder / split / names[2]).rename(folder / f"{split}-removed")
    with pytest.raises(UserError, match=missing):
        small_dataset().load(tmp_path)


def test_empty_class_folder_is_named(folder, tmp_path):
    for file in (folder / "train" / "z").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="z holds no image"):
        small_dataset().load(tmp_path)


def test_missing_split_is_named(folder, tmp_path):
    (folder / "test").rename(folder / "elsewhere")
    with pytest.raises(UserError, match="test is missing"):
        small_dataset().load(tmp_path)
    assert "test is missing" in small_dataset().describe(tmp_path)


@pytest.mark.parametrize("name", ["val", "valid"])
def test_test_images_may_be_called_validation_images(folder, tmp_path, name):
    before = small_dataset().load(tmp_path).fingerprint()
    (folder / "test").rename(folder / name)
    arrays = small_dataset().load(tmp_path)
    assert arrays.fingerprint() == before
    assert arrays.origin["test_x"] == str(folder / name)


def test_grey_and_wide_images_are_converted_and_notes_say_so(folder, tmp_path):
    grey = Image.new("L", (32, 32), 77)
    first, second = (sorted((folder / "train" / name).iterdir())[0] for name in "wx")
    grey.save(first)
    wide = Image.new("RGB", (40, 32), (255, 0, 0))
    wide.paste((1, 2, 3), (4, 0, 36, 32))
    wide.save(second)
    arrays = small_dataset().load(tmp_path)
    assert (arrays.train_x[0] == 77).all()
    assert (arrays.train_x[10] == (1, 2, 3)).all()
    assert arrays.conversions == (
        "grey images converted to RGB: 1",
        "images that are not square, cropped to their centre: 1",
    )
    with pytest.raises(UserError, match="is 40x32; resize it to 32x32"):
        small_dataset(non_square="refuse").load(tmp_path)
