"""The official files of CIFAR, where torchvision stores them."""

from pathlib import Path
from typing import Any

import numpy as np

from datasets.arrays import Content, Dataset, Layout
from datasets.layouts.fetching import fetch, published_by
from utils.errors import UserError


class OfficialCifar(Layout):
    """`<data root>/<folder>/<base folder>/` or `<data root>/<base folder>/`, the pickled batches of CIFAR.

    torchvision unpickles them, after its checksums have been verified; it is imported only then.

    Args:
        base_folder: the folder inside the official archive, such as `cifar-10-batches-py`.
        files: that must be in it.
        reader: torchvision's class by name, or a class like it with `train_list`, `test_list` and `meta` of its own,
            which name the files with their MD5 checksums.
    """

    has_source = True

    def __init__(self, base_folder: str, files: tuple[str, ...], reader: str | type) -> None:
        self.base_folder = base_folder
        self.files = files
        self.reader = reader

    def find(self, data_root: Path, dataset: Dataset) -> Path | None:
        paths = (data_root / dataset.folder / self.base_folder, data_root / self.base_folder)
        return next((path for path in paths if path.is_dir()), None)

    def wanted(self, data_root: Path, dataset: Dataset) -> str:
        return f"the official files in {data_root / dataset.folder / self.base_folder}"

    def inspect(self, path: Path, dataset: Dataset) -> str:
        self._check_presence(path)
        return f"official files in {path}; their checksums are verified when they are read"

    def sources(self, path: Path, dataset: Dataset) -> list[Path]:
        self._check_presence(path)
        return [path / name for name in self.files]

    def read(self, path: Path, dataset: Dataset) -> Content:
        self._check_presence(path)
        reader = self._reader_class()
        _check_sums(path, reader)
        train, test = (reader(path.parent, train=is_train) for is_train in (True, False))
        labels = (np.asarray(part.targets, dtype=np.int64) for part in (train, test))
        origin = dict.fromkeys(("train_x", "train_y", "test_x", "test_y"), str(path))
        return Content(train.data, next(labels), test.data, next(labels), origin)

    def download(self, data_root: Path, dataset: Dataset) -> None:
        path = self.find(data_root, dataset) or data_root / dataset.folder / self.base_folder
        files = published_by(self._reader_class(), [f"{self.base_folder}/{name}" for name in self.files])
        fetch(files, path.parent)

    def _reader_class(self) -> type:
        if not isinstance(self.reader, str):
            return self.reader
        import torchvision.datasets

        return getattr(torchvision.datasets, self.reader)

    def _check_presence(self, path: Path) -> None:
        missing = [name for name in self.files if not (path / name).is_file()]
        if missing:
            raise UserError(
                f"{path} lacks {', '.join(missing)}; unpack the whole official archive there, or download it with "
                "run.py data --download"
            )


def _check_sums(path: Path, reader: Any) -> None:
    from torchvision.datasets.utils import check_integrity

    sums = [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]
    for name, md5 in sums:
        if not check_integrity(str(path / name), md5):
            raise UserError(
                f"{path / name} is not the official file: its checksum is wrong, so it was not opened; "
                f"download it with run.py data --download, or unpack the official archive again"
            )
