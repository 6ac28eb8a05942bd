"""Images as four NumPy files, `{train,test}_{x,y}.npy`."""

from pathlib import Path

import numpy as np

from datasets.arrays import NON_SQUARE, Content, Dataset, Layout, content_of, count_images
from utils.errors import UserError

NAMES = ("train_x", "train_y", "test_x", "test_y")


class FourArrays(Layout):
    """`<data root>/<folder>/{train,test}_{x,y}.npy`: images [N, S, S, 3] uint8 and labels [N] int64.

    Grey images [N, H, W], one channel, channels first, images that are not square (`--non_square`) and labels of other
    integer types are converted, and a note says so. Images stay memory-mapped. Nothing is unpickled.
    """

    def find(self, data_root: Path, dataset: Dataset) -> Path | None:
        path = data_root / dataset.folder
        return path if any((path / f"{name}.npy").exists() for name in NAMES) else None

    def wanted(self, data_root: Path, dataset: Dataset) -> str:
        side = dataset.image_size or "S"
        return (
            f"four arrays {data_root / dataset.folder}/{{train,test}}_{{x,y}}.npy "
            f"(images [N, {side}, {side}, 3] uint8, labels [N] int64)"
        )

    def inspect(self, path: Path, dataset: Dataset) -> str:
        content = self.read(path, dataset)
        arrays = dataset.assemble(content)
        counts = count_images(len(arrays.train_x), len(arrays.test_x), dataset)
        side = arrays.train_x.shape[1]
        found = f"four arrays in {path}, {counts} of {side}x{side} in {arrays.num_classes} classes"
        return "; ".join([found, *content.conversions])

    def read(self, path: Path, dataset: Dataset) -> Content:
        missing = [f"{name}.npy" for name in NAMES if not (path / f"{name}.npy").exists()]
        if missing:
            raise UserError(f"{path} lacks {' and '.join(missing)}; put all four arrays there")
        files = {name: path / f"{name}.npy" for name in NAMES}
        crops = dataset.settings.get(NON_SQUARE.name) == "crop"
        arrays, conversions = [], []
        for name, file in files.items():
            array, said = _images(read_array(file), crops) if name.endswith("_x") else _labels(read_array(file), file)
            arrays.append(array)
            conversions += [f"{file.name} {conversion}" for conversion in said]
        return content_of(arrays, {name: str(file) for name, file in files.items()}, tuple(conversions))


def _images(images: np.ndarray, crops: bool) -> tuple[np.ndarray, list[str]]:
    """Views [N, S, S, 3] of uint8 images as far as possible, and what was converted."""
    conversions: list[str] = []
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        return images, conversions
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
        conversions.append("has channels first, which were moved last")
    if images.ndim == 3 or images.shape[3] == 1:
        images = np.broadcast_to(images.reshape(*images.shape[:3], 1), (*images.shape[:3], 3), subok=True)
        conversions.append("is grey and was converted to RGB")
    height, width = images.shape[1:3]
    if crops and height != width and images.shape[3] == 3:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        images = images[:, top : top + side, left : left + side]
        conversions.append(f"has images of {height}x{width}, cropped to their centre of {side}x{side}")
    return images, conversions


def _labels(labels: np.ndarray, file: Path) -> tuple[np.ndarray, list[str]]:
    """Labels as int64 as far as possible, and what was converted."""
    if labels.dtype.kind not in "iu" or labels.dtype == np.int64:
        return labels, []
    if labels.size and labels.max() > np.iinfo(np.int64).max:
        raise UserError(f"{file} has label {labels.max()}; number the classes from 0 on")
    return labels.astype(np.int64), [f"has labels of type {labels.dtype}, read as int64"]


def read_array(file: Path) -> np.ndarray:
    """An array whose images stay memory-mapped. Raises UserError if the file is no array."""
    try:
        # Labels are memory-mapped first too: a damaged header then cannot allocate more than the file holds.
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except PermissionError:
        raise
    except Exception as error:  # damaged bytes can fail in any way
        if "Python objects" in str(error):
            raise UserError(f"{file} holds Python objects; save one array of numbers, of equal sizes") from error
        reason = (isinstance(error, OSError) and error.strerror) or "damaged, truncated or not a .npy file"
        raise UserError(f"{file} cannot be read ({reason}); replace it") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise UserError(f"{file} is an archive of arrays; save the one array with numpy.save")
    return array if file.stem.endswith("_x") else np.array(array)
