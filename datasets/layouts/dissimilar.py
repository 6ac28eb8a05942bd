"""The official files of CIFAR-10, SVHN, MNIST, Fashion-MNIST and STL-10, as five times ten classes of small images."""

import gzip
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datasets.arrays import Content, Dataset, Layout, content_of
from datasets.layouts.fetching import fetch, published_by
from utils.errors import UserError
from utils.machine import available_cores

_SPLITS = ("train", "test")
_MNIST_FILES = tuple(f"{split}-{kind}" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


@dataclass(frozen=True)
class Source:
    """One of the five data sets.

    Attributes:
        reader: torchvision's class, which also lists the addresses of the files.
        folder: its own folder in the data root, where the files may be as well.
        files: required, relative to the root that torchvision is given; those of MNIST may be `.gz`.
        read: root and split -> images [N, S, S] or [N, S, S, 3] uint8, labels [N] from 0 to 9.
    """

    reader: str
    folder: str
    files: tuple[str, ...]
    read: Callable[[Path, str], tuple[np.ndarray, np.ndarray]]

    def missing_from(self, root: Path) -> list[str]:
        """The files that are not there."""
        return [name for name in self.files if not (root / name).is_file() and not _packed(root / name).is_file()]


class DissimilarFiles(Layout):
    """The official files of the five, each in `<data root>/<folder>`, in a folder of its own or in the data root.

    Images are resized to the dataset's size, bilinear with antialiasing, as torchvision's Resize does with Pillow
    images; grey ones get three equal channels. Labels follow the order of the five.
    """

    has_source = True

    def find(self, data_root: Path, dataset: Dataset) -> Path | None:
        return data_root if any(_root_of(source, data_root, dataset) for source in SOURCES) else None

    def wanted(self, data_root: Path, dataset: Dataset) -> str:
        root, names = data_root / dataset.folder, ", ".join(source.reader for source in SOURCES)
        return f"the official files of {names} in {root}"

    def inspect(self, path: Path, dataset: Dataset) -> str:
        roots = self._roots(path, dataset)
        found = ", ".join(f"{source.reader} in {root}" for source, root in zip(SOURCES, roots, strict=True))
        return f"official files: {found}; their checksums are verified when they are read"

    def sources(self, path: Path, dataset: Dataset) -> list[Path]:
        roots = zip(SOURCES, self._roots(path, dataset), strict=True)
        files = [root / name for source, root in roots for name in source.files]
        return [file if file.is_file() else _packed(file) for file in files]

    def read(self, path: Path, dataset: Dataset) -> Content:
        arrays = []
        for split in _SPLITS:
            images, labels = [], []
            for index, (source, root) in enumerate(zip(SOURCES, self._roots(path, dataset), strict=True)):
                values, classes = _read(source, root, split)
                images.append(_resize(values, dataset.side))
                labels.append(classes.astype(np.int64) + 10 * index)
            arrays += [np.concatenate(images), np.concatenate(labels)]
        return content_of(arrays, dict.fromkeys(("train_x", "train_y", "test_x", "test_y"), str(path)))

    def download(self, data_root: Path, dataset: Dataset) -> None:
        import torchvision.datasets

        for source in SOURCES:
            if _root_of(source, data_root, dataset) is None:
                reader = getattr(torchvision.datasets, source.reader)
                fetch(published_by(reader, source.files), data_root / dataset.folder)

    def _roots(self, data_root: Path, dataset: Dataset) -> list[Path]:
        roots = []
        for source in SOURCES:
            root = _root_of(source, data_root, dataset)
            if root is None:
                folder = data_root / dataset.folder
                raise UserError(
                    f"{folder} lacks {', '.join(source.missing_from(folder))} of {source.reader}; put the official "
                    f"files there, in {data_root / source.folder} or in {data_root}"
                )
            roots.append(root)
        return roots


def _root_of(source: Source, data_root: Path, dataset: Dataset) -> Path | None:
    """Where the files of one of the five are, all of them."""
    paths = (data_root / dataset.folder, data_root / source.folder, data_root)
    return next((path for path in paths if not source.missing_from(path)), None)


def _read(source: Source, root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        images, labels = source.read(root, split)
    except (UserError, PermissionError, ModuleNotFoundError):
        raise
    except Exception as error:  # damaged bytes can fail in any way
        raise UserError(
            f"the {source.reader} files in {root} are not the official ones or are damaged; remove them and "
            "download the official ones with run.py data --download"
        ) from error
    if len(images) != len(labels):
        raise UserError(
            f"{source.reader} in {root} has {len(images)} images but {len(labels)} labels; put the official files there"
        )
    return images, labels


def _read_cifar10(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets import CIFAR10

    part = CIFAR10(root, train=split == "train")
    return part.data, np.asarray(part.targets)


def _read_svhn(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets import SVHN

    part = SVHN(root, split)
    return part.data.transpose(0, 2, 3, 1), part.labels


def _read_stl10(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets import STL10

    class Labelled(STL10):
        """Without the unlabelled images, which are 2.6 GB."""

        train_list: Any = STL10.train_list[:2]

    part = Labelled(root, split)
    return part.data.transpose(0, 2, 3, 1), part.labels


def _read_mnist(name: str, root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    stem = {"train": "train", "test": "t10k"}[split]
    folder = root / name / "raw"
    return read_idx(folder / f"{stem}-images-idx3-ubyte"), read_idx(folder / f"{stem}-labels-idx1-ubyte")


def read_idx(file: Path) -> np.ndarray:
    """An array of bytes in the IDX format of MNIST, from the file or else from `<file>.gz`.

    Raises:
        UserError: it is not such a file, or is truncated.
    """
    try:
        content = file.read_bytes() if file.is_file() else gzip.decompress(_packed(file).read_bytes())
        if content[:3] != b"\0\0\x08":  # two zeros, and the code of unsigned bytes
            raise ValueError("another format")
        start = 4 + 4 * content[3]
        shape = np.frombuffer(content[4:start], ">i4")
        values = np.frombuffer(content, np.uint8, math.prod(shape.tolist()), start)
        if len(content) != start + len(values):
            raise ValueError("too long")
    except PermissionError:
        raise
    except Exception as error:  # damaged bytes can fail in any way
        raise UserError(f"{file} is not the official file or is damaged; put the official one there") from error
    return values.reshape(shape)


def _packed(file: Path) -> Path:
    return file.with_name(f"{file.name}.gz")


def _resize(images: np.ndarray, side: int) -> np.ndarray:
    """[N, side, side, 3] uint8 from grey [N, S, S] or RGB [N, S, S, 3]."""
    if images.shape[1:3] != (side, side):
        with ThreadPoolExecutor(available_cores()) as threads:
            images = np.stack(list(threads.map(partial(_resize_one, side=side), images)))
    return images if images.ndim == 4 else images[..., None].repeat(3, axis=3)


def _resize_one(image: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


SOURCES = (
    Source(
        "CIFAR10",
        "cifar10",
        tuple(
            f"cifar-10-batches-py/{name}"
            for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta")
        ),
        _read_cifar10,
    ),
    Source("SVHN", "svhn", ("train_32x32.mat", "test_32x32.mat"), _read_svhn),
    Source("MNIST", "mnist", tuple(f"MNIST/raw/{name}-ubyte" for name in _MNIST_FILES), partial(_read_mnist, "MNIST")),
    Source(
        "FashionMNIST",
        "fashion_mnist",
        tuple(f"FashionMNIST/raw/{name}-ubyte" for name in _MNIST_FILES),
        partial(_read_mnist, "FashionMNIST"),
    ),
    Source(
        "STL10",
        "stl10",
        tuple(f"stl10_binary/{split}_{part}.bin" for split in _SPLITS for part in "Xy"),
        _read_stl10,
    ),
)
