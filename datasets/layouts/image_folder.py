"""Images as files, in one folder per class."""

from pathlib import Path

import numpy as np

from datasets.arrays import Content, Dataset, Layout, count_images
from utils.errors import UserError

_SPLITS = ("train", "test")


class ImageFolder(Layout):
    """`<data root>/<folder>/{train,test}/<class>/*`, RGB images of the dataset's size in any format that Pillow reads.

    Class folders are labelled in the order of their names, by value if all of them are numbers; images come in the
    order of their names. Files and folders whose names begin with a dot are passed over.
    """

    def find(self, data_root: Path, dataset: Dataset) -> Path | None:
        place = data_root / dataset.folder
        return place if any((place / split).is_dir() for split in _SPLITS) else None

    def wanted(self, data_root: Path, dataset: Dataset) -> str:
        side = dataset.image_size
        return f"an image folder {data_root / dataset.folder}/{{train,test}}/<class>/* ({side}x{side} RGB images)"

    def inspect(self, place: Path, dataset: Dataset) -> str:
        counts = [sum(map(len, classes)) for classes in self._files(place, dataset)]
        return f"image folder {place}, {count_images(*counts, dataset)}"

    def read(self, place: Path, dataset: Dataset) -> Content:
        arrays = []
        for classes in self._files(place, dataset):
            arrays.append(_decode([file for files in classes for file in files], dataset.image_size))
            arrays.append(np.repeat(np.arange(len(classes)), [len(files) for files in classes]))
        origin = {f"{split}_{part}": str(place / split) for split in _SPLITS for part in "xy"}
        return Content(*arrays, origin)

    def _files(self, place: Path, dataset: Dataset) -> list[list[list[Path]]]:
        """For each split, for each class, its files."""
        names = {split: class_folders(place / split) for split in _SPLITS}
        for split, other in (_SPLITS, _SPLITS[::-1]):
            only_here = sorted(set(names[split]) - set(names[other]))
            if only_here:
                raise UserError(f"{place / other} lacks the class folder {only_here[0]}, which {place / split} has")
        if len(names["train"]) != dataset.num_classes:
            raise UserError(
                f"{place / 'train'} has {len(names['train'])} class folders; "
                f"{dataset.name} needs {dataset.num_classes}, one for each class"
            )
        return [[images_of(place / split / name) for name in names[split]] for split in _SPLITS]


def class_folders(folder: Path) -> list[str]:
    """The names of its folders, in the order of the labels. Raises UserError if it is not there."""
    if not folder.is_dir():
        raise UserError(f"{folder} is missing; give it one folder per class")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def images_of(folder: Path) -> list[Path]:
    """The files of a class, in the order of their names. Raises UserError if there are none."""
    files = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    if not files:
        raise UserError(f"{folder} holds no image; every class needs some")
    return files


def _decode(files: list[Path], side: int) -> np.ndarray:
    """Images [N, side, side, 3] uint8."""
    images = np.empty((len(files), side, side, 3), dtype=np.uint8)
    for row, file in enumerate(files):
        images[row] = _open(file, side)
    return images


def _open(file: Path, side: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file) as image:
            problem = _mismatch(image.size, image.mode, side)
            pixels = None if problem else np.asarray(image)
    except PermissionError:
        raise
    except Exception as error:  # a damaged image can fail in any way
        raise UserError(f"{file} cannot be read as an image; replace or remove it") from error
    if problem:
        raise UserError(f"{file} {problem}")
    return pixels


def _mismatch(size: tuple[int, int], mode: str, side: int) -> str | None:
    if size != (side, side):
        return f"is {size[0]}x{size[1]}; resize it to {side}x{side}"
    if mode != "RGB":
        return f"has mode {mode} (grey, transparent or the like); convert it to RGB"
    return None
