"""Images as four NumPy files, `{train,test}_{x,y}.npy`."""

from pathlib import Path

import numpy as np

from datasets.arrays import Content, Dataset, Layout, count_images
from utils.errors import UserError

_NAMES = ("train_x", "train_y", "test_x", "test_y")


class FourArrays(Layout):
    """`<data root>/<folder>/{train,test}_{x,y}.npy`: images [N, S, S, 3] uint8 and labels [N] int64.

    Images stay memory-mapped. Nothing is unpickled.
    """

    def find(self, data_root: Path, dataset: Dataset) -> Path | None:
        place = data_root / dataset.folder
        return place if any((place / f"{name}.npy").exists() for name in _NAMES) else None

    def wanted(self, data_root: Path, dataset: Dataset) -> str:
        side = dataset.image_size or "S"
        return (
            f"four arrays {data_root / dataset.folder}/{{train,test}}_{{x,y}}.npy "
            f"(images [N, {side}, {side}, 3] uint8, labels [N] int64)"
        )

    def inspect(self, place: Path, dataset: Dataset) -> str:
        arrays = dataset.assemble(self.read(place, dataset))
        counts = count_images(len(arrays.train_x), len(arrays.test_x), dataset)
        side = arrays.train_x.shape[1]
        return f"four arrays in {place}, {counts} of {side}x{side} in {arrays.num_classes} classes"

    def read(self, place: Path, dataset: Dataset) -> Content:
        missing = [f"{name}.npy" for name in _NAMES if not (place / f"{name}.npy").exists()]
        if missing:
            raise UserError(
                f"{place} lacks {' and '.join(missing)} beside the arrays that are there; put all four there"
            )
        files = {name: place / f"{name}.npy" for name in _NAMES}
        return Content(*map(read_array, files.values()), {name: str(file) for name, file in files.items()})


def read_array(file: Path) -> np.ndarray:
    """An array whose images stay memory-mapped. Raises UserError if the file is no array."""
    try:
        # Labels are mapped first as well: a damaged header cannot make it allocate what is not there.
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except PermissionError:
        raise
    except Exception as error:  # damaged bytes can fail in any way
        reason = (isinstance(error, OSError) and error.strerror) or "damaged, cut short or no .npy file"
        raise UserError(f"{file} cannot be read ({reason}); put a whole array in its place") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise UserError(f"{file} is an archive of arrays; save the one array with numpy.save")
    return array if file.stem.endswith("_x") else np.array(array)
