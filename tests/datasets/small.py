"""A small dataset that tests write in every layout: 4 classes, 32x32 pixels."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.arrays import NON_SQUARE, Arrays, Dataset
from datasets.layouts.four_arrays import FourArrays
from datasets.layouts.image_folder import ImageFolder
from datasets.layouts.official import OfficialCifar

NUM_CLASSES = 4
TEN_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
HUNDRED_FILES = ("train", "test", "meta")


def small_content(seed: int = 0, num_train: int = 40, num_test: int = 12) -> dict[str, np.ndarray]:
    """Random images, every class as often as any other, in mixed order."""
    draws = np.random.default_rng(seed)
    content = {}
    for split, number in (("train", num_train), ("test", num_test)):
        content[f"{split}_x"] = draws.integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)
        content[f"{split}_y"] = draws.permutation(np.arange(number) % NUM_CLASSES)
    return content


def small_arrays(seed: int = 0, **sizes: int) -> Arrays:
    return Arrays(**small_content(seed, **sizes), class_names=tuple("abcd"), mean=(0.5,) * 3, std=(0.25,) * 3)


def small_dataset(official: OfficialCifar | None = None, **settings: str) -> Dataset:
    """A dataset part whose layouts are those of CIFAR."""

    class Small(Dataset):
        name = "seq-small"
        num_tasks = 2
        num_classes = NUM_CLASSES
        image_size = 32
        num_images = (40, 12)
        folder = "small"
        class_names = tuple("abcd")
        mean = (0.5, 0.5, 0.5)
        std = (0.25, 0.25, 0.25)
        layouts = (FourArrays(), *([official] if official else []), ImageFolder())
        options = (NON_SQUARE,)

    return Small(**settings)


def write_four_arrays(folder: Path, content: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in content.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def write_image_folder(folder: Path, content: dict[str, np.ndarray]) -> Path:
    for split in ("train", "test"):
        for number, (image, label) in enumerate(zip(content[f"{split}_x"], content[f"{split}_y"], strict=True)):
            file = folder / split / "wxyz"[label] / f"{number:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    return folder


def _rows(images: np.ndarray) -> np.ndarray:
    """As CIFAR stores them: one row per image, red, green, blue plane after plane."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def write_ten_format(place: Path, content: dict[str, np.ndarray]) -> type:
    """CIFAR-10's files, and a reader that knows their checksums."""
    from torchvision.datasets import CIFAR10

    batches = zip(np.split(content["train_x"], 5), np.split(content["train_y"], 5), strict=True)
    files = {
        name: {"data": _rows(images), "labels": labels.tolist()}
        for name, (images, labels) in zip(TEN_FILES[:5], batches, strict=True)
    }
    files["test_batch"] = {"data": _rows(content["test_x"]), "labels": content["test_y"].tolist()}
    files["batches.meta"] = {"label_names": list("abcd")}
    sums = _write_pickles(place, files)

    class Reader(CIFAR10):
        base_folder = place.name
        train_list = tuple((name, sums[name]) for name in TEN_FILES[:5])
        test_list = (("test_batch", sums["test_batch"]),)
        meta = CIFAR10.meta | {"md5": sums["batches.meta"]}

    return Reader


def write_hundred_format(place: Path, content: dict[str, np.ndarray]) -> type:
    """CIFAR-100's files, and a reader that knows their checksums."""
    from torchvision.datasets import CIFAR100

    files = {
        split: {
            "data": _rows(content[f"{split}_x"]),
            "fine_labels": content[f"{split}_y"].tolist(),
            "coarse_labels": [0] * len(content[f"{split}_y"]),
        }
        for split in ("train", "test")
    }
    files["meta"] = {"fine_label_names": list("abcd"), "coarse_label_names": ["all"]}
    sums = _write_pickles(place, files)

    class Reader(CIFAR100):
        base_folder = place.name
        train_list = (("train", sums["train"]),)
        test_list = (("test", sums["test"]),)
        meta = CIFAR100.meta | {"md5": sums["meta"]}

    return Reader


def _write_pickles(place: Path, files: dict[str, dict]) -> dict[str, str]:
    place.mkdir(parents=True)
    sums = {}
    for name, content in files.items():
        data = pickle.dumps(content, protocol=2)
        (place / name).write_bytes(data)
        sums[name] = hashlib.md5(data).hexdigest()
    return sums
