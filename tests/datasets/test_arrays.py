import dataclasses
import time

import numpy as np
import pytest

from datasets.arrays import Arrays
from tests.datasets.small import small_arrays, small_content
from utils.errors import UserError


def build(**changes) -> Arrays:
    values = small_content() | {"class_names": tuple("abcd"), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return Arrays(**values | changes)


def test_good_arrays_are_kept_as_they_are():
    content = small_content()
    arrays = build()
    for name, array in content.items():
        np.testing.assert_array_equal(getattr(arrays, name), array)
    assert arrays.num_classes == 4


CONTENT = small_content()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_x": CONTENT["train_x"].astype(np.float32)}, ["train_x", "float32", "uint8"]),
        ({"test_x": CONTENT["test_x"].astype(np.int64)}, ["test_x", "int64", "uint8"]),
        ({"train_x": CONTENT["train_x"].transpose(0, 3, 1, 2)}, ["train_x", "[40, 3, 32, 32]", "channels last"]),
        ({"train_x": CONTENT["train_x"][..., :1]}, ["train_x", "[40, 32, 32, 1]", "RGB"]),
        ({"train_x": CONTENT["train_x"][..., 0]}, ["train_x", "[40, 32, 32]"]),
        ({"train_x": CONTENT["train_x"][:, :20]}, ["train_x", "20x32", "square"]),
        ({"test_x": CONTENT["test_x"][:, :20, :20]}, ["train_x", "32x32", "test_x", "20x20"]),
        ({"train_x": CONTENT["train_x"][:0], "train_y": CONTENT["train_y"][:0]}, ["train_x", "empty"]),
        ({"train_x": CONTENT["train_x"][:39]}, ["train_x", "39 images", "train_y", "40 labels"]),
        ({"train_y": CONTENT["train_y"].astype(np.int32)}, ["train_y", "int32", "int64"]),
        ({"train_y": CONTENT["train_y"].astype(np.float64)}, ["train_y", "float64", "int64"]),
        ({"test_y": CONTENT["test_y"][:, None]}, ["test_y", "[12, 1]"]),
        ({"train_y": CONTENT["train_y"] + 1}, ["train_y", "label 4", "0 to 3"]),
        ({"test_y": CONTENT["test_y"] - 1}, ["test_y", "label -1", "0 to 3"]),
        ({"train_y": CONTENT["train_y"].clip(0, 2)}, ["train_y", "no image of class 3"]),
        ({"test_y": CONTENT["test_y"].clip(1, 3)}, ["test_y", "no image of class 0"]),
        ({"std": (0.2, 0.0, 0.2)}, ["std"]),
        ({"mean": (0.2, float("nan"), 0.2)}, ["mean"]),
    ],
)
def test_bad_arrays_are_refused_by_name(changes, words):
    with pytest.raises(UserError) as caught:
        build(**changes)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


def test_message_names_the_file_when_it_is_known():
    with pytest.raises(UserError, match=r"/data/labels\.npy"):
        build(train_y=CONTENT["train_y"] + 1, origin={"train_y": "/data/labels.npy"})


def test_fingerprint_does_not_depend_on_how_the_images_are_stored(tmp_path):
    arrays, content = build(), small_content()
    np.save(tmp_path / "x.npy", content["train_x"])
    by_class = np.argsort(content["train_y"], kind="stable")
    stored_otherwise = {
        "memory-mapped": {"train_x": np.load(tmp_path / "x.npy", mmap_mode="r")},
        "Fortran order": {"train_x": np.asfortranarray(content["train_x"])},
        "class by class": {"train_x": content["train_x"][by_class], "train_y": content["train_y"][by_class]},
        "other names": {"class_names": tuple("wxyz"), "origin": {"train_x": "elsewhere"}},
    }
    for how, changes in stored_otherwise.items():
        assert build(**changes).fingerprint() == arrays.fingerprint(), how


@pytest.mark.parametrize("name", ["train_x", "train_y", "test_x", "test_y"])
def test_fingerprint_sees_one_changed_value(name):
    content = small_content()
    changed = content[name].copy()
    if name.endswith("x"):
        changed[-1, -1, -1, -1] ^= 1
    else:
        changed[0] = (changed[0] + 1) % 4
    assert build(**{name: changed}).fingerprint() != build().fingerprint()


def test_fingerprint_sees_the_order_inside_a_class():
    content = small_content()
    assert (
        build(train_x=content["train_x"][::-1], train_y=content["train_y"][::-1]).fingerprint() != build().fingerprint()
    )


def test_fingerprint_sees_where_one_class_ends_and_the_next_begins():
    images, labels = small_content()["train_x"], np.repeat(np.arange(4), 10)
    moved = labels.copy()
    moved[9] = 1
    assert build(train_x=images, train_y=labels).fingerprint() != build(train_x=images, train_y=moved).fingerprint()


def test_fingerprint_sees_what_is_training_and_what_is_test():
    content = small_content()
    swapped = {
        f"{a}_{part}": content[f"{b}_{part}"] for a, b in (("train", "test"), ("test", "train")) for part in "xy"
    }
    assert build(**swapped).fingerprint() != build().fingerprint()


def test_fingerprint_sees_where_training_ends_and_test_begins():
    def black(num_train, num_test):
        content = {
            f"{split}_{part}": np.zeros((number, *shape), dtype)
            for split, number in (("train", num_train), ("test", num_test))
            for part, shape, dtype in (("x", (2, 2, 3), np.uint8), ("y", (), np.int64))
        }
        return build(**content, class_names=("black",))

    assert black(2, 1).fingerprint() != black(1, 2).fingerprint()


def test_fingerprint_is_fast():
    images, labels = np.zeros((20_000, 32, 32, 3), dtype=np.uint8), np.arange(20_000) % 4
    arrays = dataclasses.replace(build(), train_x=images, train_y=labels)
    started = time.perf_counter()
    arrays.fingerprint()
    assert time.perf_counter() - started < 2  # about 0.1 s


def test_release_lets_go_of_the_images_only():
    arrays = small_arrays()
    arrays.release()
    assert arrays.train_x.size == arrays.test_x.size == arrays.train_y.size == 0
    assert arrays.train_x.base is None
    assert (arrays.num_classes, arrays.mean) == (4, (0.5, 0.5, 0.5))
