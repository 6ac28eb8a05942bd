import gzip
import hashlib
import sys

import numpy as np
import pytest
import torchvision.datasets as official
from PIL import Image
from torchvision.transforms import Resize

from datasets.layouts.dissimilar import SOURCES, read_idx
from tests.datasets.loopback import serving
from tests.datasets.small import write_ten_format
from utils.config.registry import DATASETS
from utils.errors import UserError

DRAWS = np.random.default_rng(0)
TRAIN, TEST = 20, 10  # images of each of the five


def draw(number, *shape):
    return DRAWS.integers(0, 256, (number, *shape), dtype=np.uint8), DRAWS.permutation(np.arange(number) % 10)


def idx(values):
    sizes = np.array(values.shape, dtype=">i4").tobytes()
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def sum_of(file):
    return hashlib.md5(file.read_bytes()).hexdigest()


def write_cifar10(root, patch):
    content = {}
    for split, number in (("train", TRAIN), ("test", TEST)):
        content[f"{split}_x"], content[f"{split}_y"] = draw(number, 32, 32, 3)
    reader = write_ten_format(root / "cifar-10-batches-py", content)
    for name in ("train_list", "test_list", "meta"):
        patch.setattr(official.CIFAR10, name, getattr(reader, name))
    return {split: (content[f"{split}_x"], content[f"{split}_y"]) for split in ("train", "test")}


def write_svhn(root, patch):
    from scipy.io import savemat

    parts, listed = {}, {}
    for split, number in (("train", TRAIN), ("test", TEST)):
        images, labels = parts[split] = draw(number, 32, 32, 3)
        file = root / f"{split}_32x32.mat"
        savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]})
        listed[split] = ["", file.name, sum_of(file)]
    patch.setattr(official.SVHN, "split_list", listed)
    return parts


def write_mnist(root, name):
    parts = {}
    (root / name / "raw").mkdir(parents=True)
    for split, stem, number in (("train", "train", TRAIN), ("test", "t10k", TEST)):
        images, labels = parts[split] = draw(number, 28, 28)
        (root / name / "raw" / f"{stem}-images-idx3-ubyte").write_bytes(idx(images))
        (root / name / "raw" / f"{stem}-labels-idx1-ubyte").write_bytes(idx(labels))
    return parts


def write_stl10(root, patch):
    parts, listed = {}, {}
    folder = root / "stl10_binary"
    folder.mkdir()
    for split, number in (("train", TRAIN), ("test", TEST)):
        images, labels = parts[split] = draw(number, 96, 96, 3)
        (folder / f"{split}_X.bin").write_bytes(np.ascontiguousarray(images.transpose(0, 3, 2, 1)).tobytes())
        (folder / f"{split}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
        listed[split] = [[f"{split}_{part}.bin", sum_of(folder / f"{split}_{part}.bin")] for part in "Xy"]
    patch.setattr(official.STL10, "train_list", [*listed["train"], ["unlabeled_X.bin", "not there"]])
    patch.setattr(official.STL10, "test_list", listed["test"])
    return parts


@pytest.fixture
def root(tmp_path):
    (tmp_path / "dissimilar").mkdir()
    return tmp_path / "dissimilar"


@pytest.fixture
def parts(root, monkeypatch):
    """The files of all five; by split, their images and labels in turn."""
    return [
        write_cifar10(root, monkeypatch),
        write_svhn(root, monkeypatch),
        write_mnist(root, "MNIST"),
        write_mnist(root, "FashionMNIST"),
        write_stl10(root, monkeypatch),
    ]


def load(data_root):
    return DATASETS.get("seq-dissimilar")().load(data_root)


def test_the_five_follow_one_another_as_rgb_images_of_32_pixels(parts, tmp_path):
    arrays = load(tmp_path)
    for split, number in (("train", TRAIN), ("test", TEST)):
        images, labels = getattr(arrays, f"{split}_x"), getattr(arrays, f"{split}_y")
        for index, part in enumerate(parts):
            own = slice(index * number, (index + 1) * number)
            stored, classes = part[split]
            resized = [np.asarray(Resize((32, 32))(Image.fromarray(image)).convert("RGB")) for image in stored]
            np.testing.assert_array_equal(images[own], np.stack(resized))
            np.testing.assert_array_equal(labels[own], classes + 10 * index)
    assert arrays.num_classes == 50
    assert arrays.class_names[::10] == ("CIFAR10 0", "SVHN 0", "MNIST 0", "FashionMNIST 0", "STL10 0")


def test_packed_files_of_mnist_are_read_too(parts, root, tmp_path):
    before = load(tmp_path).fingerprint()
    for file in (root / "MNIST" / "raw").iterdir():
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert load(tmp_path).fingerprint() == before


def test_each_may_lie_in_a_folder_of_its_own_or_in_the_data_root(parts, root, tmp_path):
    before = load(tmp_path).fingerprint()
    for old, new in (
        ("cifar-10-batches-py", "cifar10/cifar-10-batches-py"),
        ("stl10_binary", "stl10/stl10_binary"),
        ("train_32x32.mat", "svhn/train_32x32.mat"),
        ("test_32x32.mat", "svhn/test_32x32.mat"),
        ("MNIST", "MNIST"),
    ):
        (tmp_path / new).parent.mkdir(exist_ok=True)
        (root / old).rename(tmp_path / new)
    assert load(tmp_path).fingerprint() == before
    text = DATASETS.get("seq-dissimilar")().describe(tmp_path)
    assert f"SVHN in {tmp_path / 'svhn'}, MNIST in {tmp_path}, FashionMNIST in {root}" in text


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.reader)
def test_missing_and_damaged_files_are_named(parts, root, tmp_path, source):
    file = root / source.files[0]
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    with pytest.raises(UserError, match=f"{source.reader}.* not the official") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(UserError, match=f"lacks {source.files[0]} of {source.reader}; put the official"):
        load(tmp_path)
    assert f"lacks {source.files[0]}" in DATASETS.get("seq-dissimilar")().describe(tmp_path)


def test_number_of_labels_must_be_that_of_the_images(parts, root, tmp_path):
    (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(9)))
    with pytest.raises(UserError, match=r"MNIST in .* has 10 images but 9 labels"):
        load(tmp_path)


def test_a_package_that_is_missing_is_not_taken_for_a_damaged_file(parts, root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)  # by which torchvision reads SVHN
    monkeypatch.delitem(sys.modules, "scipy.io")
    with pytest.raises(ModuleNotFoundError, match="scipy"):
        load(tmp_path)


def test_array_of_bytes_is_read_in_its_shape(tmp_path):
    values = draw(3, 4, 5)[0]
    (tmp_path / "x").write_bytes(idx(values))
    np.testing.assert_array_equal(read_idx(tmp_path / "x"), values)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:3],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"\0\0\x0d" + content[3:],
        lambda content: content[:3] + b"\x09" + content[4:],
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_spoilt_array_of_bytes_is_refused(tmp_path, spoil, packed):
    content = spoil(idx(draw(3, 4, 5)[0]))
    name, content = ("x.gz", gzip.compress(content)) if packed else ("x", content)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="x is not the official file"):
        read_idx(tmp_path / "x")


def test_files_known_here_are_those_that_torchvision_reads():
    known = {source.reader: {name.rpartition("/")[2] for name in source.files} for source in SOURCES}
    readers = {name: getattr(official, name) for name in known}
    listed = [*readers["CIFAR10"].train_list, *readers["CIFAR10"].test_list]
    assert known["CIFAR10"] == {name for name, _ in listed} | {readers["CIFAR10"].meta["filename"]}
    assert known["SVHN"] == {readers["SVHN"].split_list[split][1] for split in ("train", "test")}
    for name in ("MNIST", "FashionMNIST"):
        assert {f"{file}.gz" for file in known[name]} == {file for file, _ in readers[name].resources}
    listed = [*readers["STL10"].train_list[:2], *readers["STL10"].test_list]
    assert known["STL10"] == {name for name, _ in listed}


def test_only_what_is_missing_is_fetched(parts, root, tmp_path, monkeypatch):
    expected = load(tmp_path).fingerprint()
    with serving() as served:
        listed = {}
        for split, (_, name, md5) in official.SVHN.split_list.items():
            served.files[f"/{name}"] = (root / name).read_bytes()
            (root / name).unlink()
            listed[split] = [f"{served.url}/{name}", name, md5]
        monkeypatch.setattr(official.SVHN, "split_list", listed)
        DATASETS.get("seq-dissimilar")().download(tmp_path)
        assert [path for path, _ in served.asked] == ["/train_32x32.mat", "/test_32x32.mat"]
    assert load(tmp_path).fingerprint() == expected
