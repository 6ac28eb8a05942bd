"""ImageNet's folders of JPEG files, decoded once into the four arrays."""

from functools import partial
from pathlib import Path

from datasets.arrays import Content, Dataset, Layout, count_images
from datasets.layouts.decoding import centre, decode, decoded_classes, move_up
from datasets.layouts.four_arrays import FourArrays
from datasets.layouts.image_folder import class_folders, first_of, images_of, missing_names
from utils.errors import UserError

_TREES = ("imagenet", "ILSVRC2012")  # where else in the data root all of ImageNet may be
_TEST_FOLDERS = ("val", "test")
_NATIVE = "native"


class DecodedArrays(FourArrays):
    """The four arrays, with the names of their classes in a file beside them if they were decoded here."""

    def inspect(self, path: Path, dataset: Dataset) -> str:
        names = decoded_classes(path) or dataset.class_names
        return super().inspect(path, dataset) + _note(names, dataset)


class ImageNetFolder(Layout):
    """`<data root>/<folder>/{train,val}/<class>/*`, images of any size, or the same in `<data root>/imagenet`.

    If the folder has the dataset's classes, these are used, whatever else it has. Otherwise it must have exactly as
    many classes, most of them different ones, which are labelled in the order of their names. The arrays are written to
    `<data root>/<folder>`, once.
    """

    def find(self, data_root: Path, dataset: Dataset) -> Path | None:
        paths = (data_root / name for name in (dataset.folder, *_TREES))
        return next((path for path in paths if (path / "train").is_dir()), None)

    def wanted(self, data_root: Path, dataset: Dataset) -> str:
        return (
            f"an image folder {data_root / dataset.folder}/{{train,val}}/<class>/* of {dataset.num_classes} classes; "
            f"or all of ImageNet in {data_root / _TREES[0]}/{{train,val}}/<class>/*"
        )

    def inspect(self, path: Path, dataset: Dataset) -> str:
        files = self._files(path, dataset)
        num_train, num_test = (sum(map(len, classes.values())) for classes in files.values())
        counted = count_images(num_train, num_test, dataset)
        text = f"image folder {path}, {counted}, decoded once when they are first read"
        return text + _note(tuple(files["train"]), dataset)

    def read(self, path: Path, dataset: Dataset) -> Content:
        arrays = path.parent / dataset.folder
        decode(self._files(path, dataset), dataset.side, arrays, dataset.name)
        return FourArrays().read(arrays, dataset)

    def native_test(self, data_root: Path, dataset: Dataset, inner: int) -> dict[str, Path]:
        """The arrays of the test images, not resized, written to `<data root>/<folder>/native`, once.

        Args:
            data_root, dataset: as of `find`.
            inner: side of the centre that equals torchvision's crop; see `centre`.

        Returns:
            The files `test_x` and `test_y`.

        Raises:
            UserError: neither these arrays nor the image files exist.
        """
        arrays = data_root / dataset.folder / _NATIVE
        files = {name: arrays / f"{name}.npy" for name in ("test_x", "test_y")}
        move_up(arrays)
        if not all(file.exists() for file in files.values()):
            path = self.find(data_root, dataset)
            if path is None:
                raise UserError(
                    f"--test_crop native crops the original test images, but those in "
                    f"{arrays.parent} are resized: leave it out, or provide {self.wanted(data_root, dataset)}"
                )
            test = {"test": self._files(path, dataset)["test"]}
            decode(test, dataset.side, arrays, f"{dataset.name}, {_NATIVE}", partial(centre, inner=inner))
        return files

    def _files(self, path: Path, dataset: Dataset) -> dict[str, dict[str, list[Path]]]:
        """The files by split, then by class in the order of the labels."""
        test = next((path / name for name in _TEST_FOLDERS if (path / name).is_dir()), None)
        if test is None:
            raise UserError(f"{path} has no folder {_TEST_FOLDERS[0]} beside train; put the validation images there")
        names = _classes(path / "train", dataset)
        _check_presence(test, names)
        return {
            split: {name: images_of(folder / name) for name in names}
            for split, folder in (("train", path / "train"), ("test", test))
        }


def _classes(folder: Path, dataset: Dataset) -> list[str]:
    """The classes to use, in the order of the labels."""
    names = class_folders(folder)
    is_another_set = set(dataset.class_names) - set(names) and not missing_names(names, dataset)
    if is_another_set and len(names) == dataset.num_classes:
        return names
    _check_presence(folder, dataset.class_names)
    return list(dataset.class_names)


def _check_presence(folder: Path, names: tuple[str, ...] | list[str]) -> None:
    missing = sorted(set(names) - set(class_folders(folder)))
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise UserError(f"{folder} lacks the class folder{plural} {first_of(missing)}; put them there")


def _note(names: tuple[str, ...], dataset: Dataset) -> str:
    """What to say if the classes are not the dataset's."""
    if names == dataset.class_names:
        return ""
    listed = f"{dataset.class_names[0]} to {dataset.class_names[-1]}"
    return f"; its classes are not the {dataset.num_classes} of the published studies, {listed}"
