"""ImageNet's folders of JPEG files, decoded once into the four arrays."""

from functools import partial
from pathlib import Path

from datasets.arrays import Content, Dataset, Layout, count_images
from datasets.layouts.decoding import centre, decode, decoded_classes, move_up
from datasets.layouts.four_arrays import FourArrays
from datasets.layouts.image_folder import class_folders, first_of, images_of, missing_names
from utils.errors import UserError

_TREES = ("imagenet", "ILSVRC2012")  # where else in the data root the whole of ImageNet may lie
_TEST_FOLDERS = ("val", "test")
_NATIVE = "native"


class DecodedArrays(FourArrays):
    """The four arrays, beside which stands whose classes they are, if they were decoded here."""

    def inspect(self, place: Path, dataset: Dataset) -> str:
        names = decoded_classes(place) or dataset.class_names
        return super().inspect(place, dataset) + _remark(names, dataset)


class ImageNetFolder(Layout):
    """`<data root>/<folder>/{train,val}/<class>/*`, images of any size, or the same in `<data root>/imagenet`.

    Of a tree that holds the dataset's classes, these are taken. Otherwise the folder must hold just as many classes,
    most of them others, which are labelled in the order of their names. The arrays are written to
    `<data root>/<folder>`, once.
    """

    def find(self, data_root: Path, dataset: Dataset) -> Path | None:
        places = (data_root / name for name in (dataset.folder, *_TREES))
        return next((place for place in places if (place / "train").is_dir()), None)

    def wanted(self, data_root: Path, dataset: Dataset) -> str:
        return (
            f"an image folder {data_root / dataset.folder}/{{train,val}}/<class>/* of {dataset.num_classes} classes; "
            f"or the whole of ImageNet in {data_root / _TREES[0]}/{{train,val}}/<class>/*"
        )

    def inspect(self, place: Path, dataset: Dataset) -> str:
        files = self._files(place, dataset)
        num_train, num_test = (sum(map(len, classes.values())) for classes in files.values())
        counted = count_images(num_train, num_test, dataset)
        text = f"image folder {place}, {counted}, decoded once when they are first read"
        return text + _remark(tuple(files["train"]), dataset)

    def read(self, place: Path, dataset: Dataset) -> Content:
        arrays = place.parent / dataset.folder
        decode(self._files(place, dataset), dataset.side, arrays, dataset.name)
        return FourArrays().read(arrays, dataset)

    def native_test(self, data_root: Path, dataset: Dataset, inner: int) -> dict[str, Path]:
        """The arrays of the test images that were not resized, written to `<data root>/<folder>/native`, once.

        Args:
            data_root, dataset: as of `find`.
            inner: side of the centre that is compared with torchvision's; see `centre`.

        Returns:
            The files `test_x` and `test_y`.

        Raises:
            UserError: neither these arrays nor the image files are there.
        """
        arrays = data_root / dataset.folder / _NATIVE
        files = {name: arrays / f"{name}.npy" for name in ("test_x", "test_y")}
        move_up(arrays)
        if not all(file.exists() for file in files.values()):
            place = self.find(data_root, dataset)
            if place is None:
                raise UserError(
                    f"--test_crop native cuts the test images out of the original files, and those in "
                    f"{arrays.parent} are resized: leave it out, or put there {self.wanted(data_root, dataset)}"
                )
            test = {"test": self._files(place, dataset)["test"]}
            decode(test, dataset.side, arrays, f"{dataset.name}, {_NATIVE}", partial(centre, inner=inner))
        return files

    def _files(self, place: Path, dataset: Dataset) -> dict[str, dict[str, list[Path]]]:
        """By split, by class in the order of the labels, the files."""
        test = next((place / name for name in _TEST_FOLDERS if (place / name).is_dir()), None)
        if test is None:
            raise UserError(f"{place} has no folder {_TEST_FOLDERS[0]} beside train; put the validation images there")
        names = _classes(place / "train", dataset)
        _check_presence(test, names)
        return {
            split: {name: images_of(folder / name) for name in names}
            for split, folder in (("train", place / "train"), ("test", test))
        }


def _classes(folder: Path, dataset: Dataset) -> list[str]:
    """The classes to take, in the order of the labels."""
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


def _remark(names: tuple[str, ...], dataset: Dataset) -> str:
    """What is to be said of other classes than the dataset's."""
    if names == dataset.class_names:
        return ""
    listed = f"{dataset.class_names[0]} to {dataset.class_names[-1]}"
    return f"; its classes are others than the {dataset.num_classes} of the published studies, {listed}"
