import shutil

import numpy as np
import pytest
import torch
import torchvision.transforms as reference
from PIL import Image

from datasets.seq_imagenet100 import SeqImagenet100
from datasets.stream import Stream
from datasets.streams.split import Split
from utils.data.augment import normalise
from utils.data.class_order import class_order
from utils.errors import UserError


def test_classes_are_a_hundred_wordnet_ids_in_order():
    names = SeqImagenet100().class_names
    assert len(set(names)) == 100
    assert list(names) == sorted(names)
    assert (names[0], names[-1]) == ("n01440764", "n01855672")
    # Of the class index of ILSVRC-2012: great white shark, tree frog, night snake, tarantula, goldfinch.
    assert [names[index] for index in (2, 31, 60, 76, 11)] == [
        *("n01484850", "n01644373", "n01740131", "n01774750", "n01531178"),
    ]


def test_offline_order_is_the_published_list(tmp_path):
    dataset = SeqImagenet100()
    order = class_order(dataset.class_orders["offline"], 100, seed=7)
    assert np.argsort(order)[:5].tolist() == [68, 56, 78, 8, 23]


def test_image_files_become_a_stream_from_disk(tmp_path):
    dataset = SeqImagenet100()
    for split in ("train", "val"):
        for number, name in enumerate(dataset.class_names):
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (16, 9), (number, 0, 0)).save(folder / "a.png")
    arrays = dataset.load(tmp_path)
    order = class_order(dataset.class_orders["offline"], 100, seed=0)
    stream = Stream(arrays, arrangement=Split(n_tasks=10), label_of_class=order, seed=0, device="cpu")
    arrays.release()
    images, labels = stream.pool((0,), "test").everything()
    assert images.shape == (10, 3, 256, 256)
    assert labels.tolist() == list(range(10))
    assert images[:, 0, 128, 128].tolist() == [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]


def test_decoding_that_was_killed_in_its_last_instant_is_finished(tmp_path):
    folder = tmp_path / "imagenet100"
    (folder / "decoded").mkdir(parents=True)
    for split in ("train", "test"):
        np.save(folder / "decoded" / f"{split}_y.npy", np.arange(100))
        images = np.lib.format.open_memmap(
            (folder if split == "test" else folder / "decoded") / f"{split}_x.npy", "w+", np.uint8, (100, 256, 256, 3)
        )
        del images
    arrays = SeqImagenet100().load(tmp_path)
    assert len(arrays.train_y) == len(arrays.test_y) == 100


# -- test images that are not resized ----------------------------------------------------------------------------------

SIZES = ((300, 231), (224, 224), (100, 260), (225, 241), (120, 90))


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """JPEG files of several sizes, a test image per class, the classes' training images of one colour."""
    root, draws = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for number, name in enumerate(SeqImagenet100().class_names):
        for split in ("train", "val"):
            (root / "imagenet" / split / name).mkdir(parents=True)
        Image.new("RGB", (30, 40), (2 * number, 0, 0)).save(root / "imagenet" / "train" / name / "0.JPEG")
        width, height = SIZES[number % len(SIZES)]
        grey = draws.integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(grey.repeat(10, 0).repeat(10, 1)[:height, :width])
        image.save(root / "imagenet" / "val" / name / "0.JPEG")
    return root


def files_of(root):
    return sorted((root / "imagenet" / "val").glob("*/*"))


@pytest.fixture(scope="module")
def native(image_folder):
    return SeqImagenet100(test_crop="native").load(image_folder)


def test_native_test_images_are_centres_of_the_files(image_folder, native):
    transform = SeqImagenet100().transform("offline", native)
    steps = (reference.CenterCrop(224), reference.ToTensor(), reference.Normalize(native.mean, native.std))
    for file, stored in list(zip(files_of(image_folder), native.test_x, strict=True))[:10]:
        ours = normalise(torch.from_numpy(np.array(stored)).permute(2, 0, 1)[None], transform)[0]
        with Image.open(file) as image:
            torch.testing.assert_close(ours, reference.Compose(steps)(image), rtol=0, atol=1e-6)


def test_native_changes_the_test_images_alone_and_is_another_computation(image_folder, native):
    resized = SeqImagenet100().load(image_folder)
    assert not resized.test_apart
    np.testing.assert_array_equal(native.train_x[::30], resized.train_x[::30])
    np.testing.assert_array_equal(native.test_y, resized.test_y)
    assert (native.test_x[0] != resized.test_x[0]).any()
    assert native.fingerprint() != resized.fingerprint()
    assert native.fingerprint() == SeqImagenet100(test_crop="native").load(image_folder).fingerprint()
    assert resized.fingerprint() == SeqImagenet100().load(image_folder).fingerprint()


def test_native_arrays_do_without_the_image_files(image_folder, native, tmp_path):
    for name in ("train_x.npy", "train_y.npy", "test_x.npy", "test_y.npy", "native"):
        (tmp_path / "imagenet100").mkdir(exist_ok=True)
        (tmp_path / "imagenet100" / name).symlink_to(image_folder / "imagenet100" / name)
    np.testing.assert_array_equal(SeqImagenet100(test_crop="native").load(tmp_path).test_x, native.test_x)


def test_native_cannot_be_had_from_resized_images(image_folder, native, tmp_path):
    (tmp_path / "imagenet100").mkdir()
    for name in ("train_x.npy", "train_y.npy", "test_x.npy", "test_y.npy"):
        (tmp_path / "imagenet100" / name).symlink_to(image_folder / "imagenet100" / name)
    with pytest.raises(UserError, match=r"native crops the original .* are resized: leave it out, or provide"):
        SeqImagenet100(test_crop="native").load(tmp_path)
    SeqImagenet100().load(tmp_path)


def test_labels_of_other_test_images_are_refused(image_folder, native, tmp_path):
    shutil.copytree(image_folder / "imagenet100", tmp_path / "imagenet100", copy_function=shutil.copy)
    labels = tmp_path / "imagenet100" / "native" / "test_y.npy"
    np.save(labels, np.load(labels)[::-1])
    with pytest.raises(UserError, match=rf"{labels} and .*test_y.npy are labels of different images"):
        SeqImagenet100(test_crop="native").load(tmp_path)


def test_training_images_do_not_take_the_place_of_native_test_images(native):
    order = class_order("identity", 100, seed=0)
    with pytest.raises(UserError, match=r"--validation .* --test_crop"):
        Stream(native, arrangement=Split(n_tasks=10), label_of_class=order, validation=0.5, seed=0, device="cpu")


def test_labels_of_other_classes_are_refused(image_folder, native, tmp_path):
    shutil.copytree(image_folder / "imagenet100", tmp_path / "imagenet100", copy_function=shutil.copy)
    (tmp_path / "imagenet100" / "classes.txt").write_text("".join(f"other{number}\n" for number in range(100)))
    with pytest.raises(UserError, match="are labels of different images"):
        SeqImagenet100(test_crop="native").load(tmp_path)
