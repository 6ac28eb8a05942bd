import shutil
from collections import namedtuple

import numpy as np
import pytest
import torchvision.transforms as reference
from PIL import Image

from datasets.layouts.decoding import centre, decode, move_up, square
from utils.errors import UserError

SIDE = 8
DRAWS = np.random.default_rng(0)


def picture(width=10, height=12):
    return Image.fromarray(DRAWS.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def files(tmp_path):
    """By split, by class, image files without loss."""
    files = {}
    for split, number in (("train", 3), ("test", 1)):
        for name in ("ant", "bee"):
            folder = tmp_path / "source" / split / name
            folder.mkdir(parents=True)
            listed = [folder / f"{index}.png" for index in range(number)]
            for file in listed:
                picture().save(file)
            files.setdefault(split, {})[name] = listed
    return files


@pytest.fixture
def place(tmp_path):
    return tmp_path / "arrays"


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (8, 13), (31, 17), (17, 32), (5, 5), (4, 7), (400, 9), (300, 501)])
def test_square_is_what_torchvision_makes(size):
    image = picture(*size)
    expected = reference.CenterCrop(SIDE)(reference.Resize(SIDE)(image))
    np.testing.assert_array_equal(np.asarray(square(image, SIDE)), np.asarray(expected))


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (5, 6), (4, 7), (1, 30), (31, 17), (400, 9), (7, 11), (300, 501)])
@pytest.mark.parametrize(("side", "inner"), [(8, 8), (8, 4), (10, 6), (12, 6)])
def test_centre_is_what_torchvision_makes_without_a_resize(size, side, inner):
    image = picture(*size)
    cut = np.asarray(centre(image, side, inner))
    margin = (side - inner) // 2
    assert cut.shape == (side, side, 3)
    expected = np.asarray(reference.CenterCrop(inner)(image))
    np.testing.assert_array_equal(cut[margin : side - margin, margin : side - margin], expected)


def test_centre_holds_the_pixels_around_it():
    image = picture(12, 9)
    np.testing.assert_array_equal(np.asarray(centre(image, 8, 6)), np.asarray(image)[1:9, 2:10])
    assert not np.asarray(centre(image, 20, 6))[:4].any()


def test_arrays_hold_every_image_class_after_class(files, place):
    decode(files, SIDE, place, "small")
    for split, number in (("train", 3), ("test", 1)):
        listed = [file for each in files[split].values() for file in each]
        expected = np.stack([square(Image.open(file), SIDE) for file in listed])
        np.testing.assert_array_equal(np.load(place / f"{split}_x.npy"), expected)
        labels = np.load(place / f"{split}_y.npy")
        assert (labels.dtype, labels.tolist()) == (np.int64, [0] * number + [1] * number)
    visible = sorted(entry.name for entry in place.iterdir() if not entry.name.startswith("."))
    assert visible == ["classes.txt", "test_x.npy", "test_y.npy", "train_x.npy", "train_y.npy"]


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1"])
def test_every_mode_becomes_rgb(files, place, mode):
    file = files["test"]["ant"][0]
    picture().convert(mode).save(file, "TIFF")
    decode(files, SIDE, place, "small")
    expected = square(Image.open(file).convert("RGB"), SIDE)
    np.testing.assert_array_equal(np.load(place / "test_x.npy")[0], expected)


def test_nothing_is_decoded_twice(files, place):
    decode(files, SIDE, place, "small")
    before = np.load(place / "train_x.npy")
    for file in files["train"]["ant"]:
        picture().save(file)
    decode(files, SIDE, place, "small")
    np.testing.assert_array_equal(np.load(place / "train_x.npy"), before)


def test_unreadable_images_are_named_in_one_line_and_nothing_is_left(files, place):
    files["train"]["bee"][1].write_bytes(files["train"]["bee"][1].read_bytes()[:200])
    files["test"]["ant"][0].write_text("no image")
    with pytest.raises(UserError) as caught:
        decode(files, SIDE, place, "small")
    message = str(caught.value)
    assert "\n" not in message
    assert f"{files['train']['bee'][1]}, {files['test']['ant'][0]} cannot be read as images" in message
    assert [entry.name for entry in place.iterdir() if not entry.name.startswith(".")] == []
    for file in (files["train"]["bee"][1], files["test"]["ant"][0]):
        picture().save(file)
    decode(files, SIDE, place, "small")
    assert len(np.load(place / "train_y.npy")) == 6


def test_of_many_unreadable_images_the_first_are_named(files, place):
    for listed in files["train"].values():
        for file in listed:
            file.write_bytes(b"")
    with pytest.raises(UserError, match=r"0\.png, .*1\.png, .*2\.png and 3 more cannot be read"):
        decode(files, SIDE, place, "small")


def test_decoding_that_is_stopped_leaves_no_data_and_can_be_done_again(files, place):
    def stop(image, side):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(files, SIDE, place, "small", stop)
    assert list(place.rglob("*.npy")) == []
    decode(files, SIDE, place, "small")
    assert len(np.load(place / "train_x.npy")) == 6


def test_what_a_killed_decoding_left_is_not_taken_for_data(files, place):
    (place / "decoding").mkdir(parents=True)
    np.save(place / "decoding" / "train_y.npy", np.zeros(3))
    decode(files, SIDE, place, "small")
    assert len(np.load(place / "train_y.npy")) == 6
    assert not (place / "decoding").exists()


@pytest.mark.parametrize("num_moved", range(5))
def test_complete_arrays_are_put_in_place_wherever_it_was_killed(files, place, num_moved):
    decode(files, SIDE, place, "small")
    expected = {file.name: file.read_bytes() for file in place.glob("*.npy")}
    (place / "decoded").mkdir()
    for name in sorted(expected)[num_moved:]:
        (place / name).rename(place / "decoded" / name)
    move_up(place)
    assert {file.name: file.read_bytes() for file in place.glob("*.npy")} == expected
    assert not (place / "decoded").exists()


def test_complete_arrays_of_a_killed_decoding_are_taken_as_they_are(files, place):
    decode(files, SIDE, place, "small")
    (place / "decoded").mkdir()
    for file in list(place.glob("*.npy")):
        file.rename(place / "decoded" / file.name)
    np.save(place / "decoded" / "train_x.npy", np.zeros(3))
    decode(files, SIDE, place, "small")
    assert np.load(place / "train_x.npy").shape == (3,)


def test_nothing_to_put_in_place_is_fine(place):
    move_up(place)
    assert not place.exists()


def test_too_little_room_is_told_before_anything_is_written(files, place, monkeypatch):
    room = namedtuple("room", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: room(8 * SIDE * SIDE * 3 - 1))
    with pytest.raises(UserError, match=r"need 0\.0 GB, but 0\.0 GB are free; make room"):
        decode(files, SIDE, place, "small")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: room(8 * SIDE * SIDE * 3))
    decode(files, SIDE, place, "small")


def test_place_that_cannot_be_written_is_named(files, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file cannot be written to \(File exists\)"):
        decode(files, SIDE, tmp_path / "file", "small")


def test_progress_is_shown(files, place, capsys):
    decode(files, SIDE, place, "small")
    assert "small: decoding 6 train images once" in capsys.readouterr().err
