"""A dataset in memory: uint8 images, labels, class names, mean and standard deviation; and what a dataset part is."""

import contextlib
import hashlib
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from datasets._digests import kept_digest
from utils.config.options import Option
from utils.errors import UserError

if TYPE_CHECKING:
    from utils.data.augment import Transform

_CHUNK_BYTES = 8 * 2**20


NON_SQUARE = Option(
    "non_square",
    str,
    "crop",
    "images that are not square: crop to the centre, or refuse them",
    choices=("crop", "refuse"),
    role="runtime",  # the fingerprint is that of the images after the crop
)


class Content(NamedTuple):
    """What was read from a layout.

    The four arrays of `Arrays`; the file of each, for messages; and what was converted, in words.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    origin: dict[str, str]
    conversions: tuple[str, ...] = ()


def content_of(arrays: Sequence[np.ndarray], origin: dict[str, str], conversions: tuple[str, ...] = ()) -> Content:
    """The content of these arrays, which are in the order of its fields."""
    train_x, train_y, test_x, test_y = arrays
    return Content(train_x, train_y, test_x, test_y, origin, conversions)


@dataclass
class Arrays:
    """All images of a dataset, checked on construction.

    Attributes:
        train_x, test_x: [N, S, S, 3] uint8, RGB, possibly memory-mapped.
        train_y, test_y: [N] int64, class 0 to K - 1; every class occurs in both.
        class_names: K names.
        mean, std: of the three channels, for images scaled to [0, 1].
        origin: the file that each array was read from.
        on_disk: whether there are too many images for a device, so that they are read batch by batch.
        test_apart: whether test images were cropped differently, so that training images cannot replace them.
        conversions: what was converted to bring the data to this form, in words.

    Raises:
        UserError: a shape, a type or a label is not as above; the message names the file or the array.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: dict[str, str] = field(default_factory=dict, repr=False)
    on_disk: bool = False
    test_apart: bool = False
    conversions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = {name: self.origin.get(name, name) for name in ("train_x", "train_y", "test_x", "test_y")}
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_x"), getattr(self, f"{split}_y")
            check_images(images, where[f"{split}_x"])
            check_labels(labels, self.num_classes, where[f"{split}_y"])
            if len(images) != len(labels):
                raise UserError(
                    f"{where[f'{split}_x']} has {len(images)} images but {where[f'{split}_y']} has {len(labels)} "
                    f"labels; give one label per image"
                )
        if self.train_x.shape[1:] != self.test_x.shape[1:]:
            raise UserError(
                f"{where['train_x']} has images of {_size(self.train_x)} but {where['test_x']} of "
                f"{_size(self.test_x)}; resize them to the same size"
            )
        if not np.isfinite([*self.mean, *self.std]).all() or min(self.std) <= 0:
            raise UserError(f"mean {self.mean} and std {self.std} must be finite, and std above 0 in every channel")

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def fingerprint(self) -> str:
        """SHA-256 of the decoded images and labels.

        The same for the same images, in whatever layout and order of the classes they are stored. The order within a
        class counts, as a run depends on it. For images that stay on disk it is computed once and stored beside them,
        until the size or the modification time of one of the files changes.
        """
        return kept_digest(map(Path, self.origin.values()), self._digest) if self.on_disk else self._digest()

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for images, labels in ((self.train_x, self.train_y), (self.test_x, self.test_y)):
            rows = rows_by_label(labels)
            digest.update(repr(images.shape).encode())
            digest.update(labels[rows].astype("<i8").tobytes())
            for chunk in chunks_of_rows(images, rows):
                digest.update(chunk.data)
        return digest.hexdigest()

    def release(self) -> None:
        """Drop the references to images and labels, so that their memory can be freed."""
        for name in ("train_x", "train_y", "test_x", "test_y"):
            setattr(self, name, getattr(self, name)[:0].copy())


def rows_by_label(labels: np.ndarray) -> np.ndarray:
    """Row numbers [N], sorted by label, in their original order within a label."""
    return np.argsort(labels, kind="stable")


def chunks_of_rows(images: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The given rows of an array, a few MB at a time, as fresh contiguous arrays [n, H, W, C]."""
    size = max(1, _CHUNK_BYTES // math.prod(images.shape[1:]))
    for start in range(0, len(rows), size):
        yield np.ascontiguousarray(images[rows[start : start + size]])


def check_images(images: np.ndarray, where: str) -> None:
    """Raise UserError, beginning with `where`, unless the images are [N, S, S, 3] uint8 and there are some."""
    if images.dtype != np.uint8:
        raise UserError(f"{where} has type {images.dtype}; images must be uint8, 0 to 255{_conversion(images)}")
    if images.ndim != 4 or images.shape[3] != 3:
        raise UserError(f"{where} has shape {list(images.shape)}; images must be [N, H, W, 3], RGB with channels last")
    if images.shape[1] != images.shape[2] or not images.shape[1]:
        raise UserError(f"{where} has images of {_size(images)}; they must be square")
    if not len(images):
        raise UserError(f"{where} is empty; give at least one image per class")


def _conversion(images: np.ndarray) -> str:
    """How to convert images of another type, as far as their values show it."""
    if images.dtype.kind not in "fiu" or not images.size:
        return ""
    low, high = float(images.min()), float(images.max())
    if not math.isfinite(low) or not math.isfinite(high):
        return "; some values are NaN or infinite: replace them first"
    if images.dtype.kind == "f" and low >= 0 and high <= 1:
        return "; the values are from 0 to 1: save (255 * images).round().astype('uint8')"
    if low >= 0 and high <= 255:
        return "; save images.round().astype('uint8')"
    return f"; the values are from {low:g} to {high:g}: undo their normalization first"


def check_label_type(labels: np.ndarray, where: str) -> None:
    """Raise UserError, beginning with `where`, unless the labels are [N] int64 and there are some."""
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise UserError(f"{where} has type {labels.dtype} and shape {list(labels.shape)}; labels must be [N] int64")
    if not len(labels):
        raise UserError(f"{where} is empty; give one label per image")


def check_labels(labels: np.ndarray, num_classes: int, where: str) -> None:
    """Raise UserError, beginning with `where`, unless the labels are [N] int64 and are exactly 0 to num_classes - 1."""
    check_label_type(labels, where)
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        row = int(outside.argmax())
        raise UserError(
            f"{where} has label {labels[row]} in row {row}; the {num_classes} classes are labelled 0 to "
            f"{num_classes - 1}"
        )
    missing = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
    if len(missing):
        raise UserError(f"{where} has no image of class {missing[0]}; each of the {num_classes} classes needs some")


def _size(images: np.ndarray) -> str:
    return f"{images.shape[1]}x{images.shape[2]}"


class Layout:
    """One way to store a dataset. `dataset` gives `folder`, `image_size`, `num_classes` and `num_images`.

    Attributes:
        has_source: whether the files can be downloaded from an official source.
    """

    has_source: ClassVar[bool] = False

    def find(self, data_root: Path, dataset: "Dataset") -> Path | None:
        """Where the dataset is stored in this layout, whole or in part; None if it is not."""
        raise NotImplementedError

    def wanted(self, data_root: Path, dataset: "Dataset") -> str:
        """What to put where, in a few words."""
        raise NotImplementedError

    def inspect(self, path: Path, dataset: "Dataset") -> str:
        """What was found, without decoding an image. Raises UserError if it could not be read."""
        raise NotImplementedError

    def sources(self, path: Path, dataset: "Dataset") -> list[Path]:
        """The files that `read` decodes, whose images are then converted once for all runs; none if it maps arrays."""
        return []

    def read(self, path: Path, dataset: "Dataset") -> Content:
        """Read everything. Raises UserError if that is not possible."""
        raise NotImplementedError

    def download(self, data_root: Path, dataset: "Dataset") -> None:
        """Download the official files that are missing. Raises UserError if that is not possible."""
        raise NotImplementedError


class Dataset:
    """Base of the datasets that `--dataset` names: images of some classes, and how many tasks they usually make.

    Attributes:
        num_classes: of all tasks together; None: as many as the data have.
        num_tasks: of sizes as equal as possible, unless `--stream` and its options say otherwise.
        task_sizes: the number of classes of each task; None: `num_tasks` equal ones.
        image_size: side of the square images in pixels.
        num_images: number of training and of test images of the original.
        folder: of the data, inside the data root.
        class_names: num_classes names.
        mean, std: of the three channels, for images scaled to [0, 1].
        layouts: in which the data may be stored; the first one found is read.
        options: of this dataset; the constructor takes their values by name.
        transforms: by protocol, `crop_padding` and `flip` of a `utils.data.augment.Transform`; `mean` and `std` too
            where the protocol has its own.
        protocol_values: by protocol, defaults of options.
        on_disk: whether the images are too many for the memory of a device.
        class_orders: by protocol, the rule for the order of the classes, if it is not the protocol's own.
    """

    name: str
    num_tasks: int
    task_sizes: tuple[int, ...] | None = None
    num_classes: int | None
    image_size: int | None
    num_images: tuple[int, int] | None = None
    folder: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layouts: tuple[Layout, ...] = ()
    options: tuple[Option, ...] = ()
    transforms: ClassVar[dict[str, dict[str, Any]]] = {}
    protocol_values: ClassVar[dict[str, dict[str, Any]]] = {}
    class_orders: ClassVar[dict[str, str]] = {}
    on_disk: ClassVar[bool] = False

    def __init__(self, **options: Any) -> None:
        unknown = options.keys() - {option.name for option in self.options}
        if unknown:
            raise TypeError(f"{type(self).__name__} has no option {', '.join(sorted(unknown))}")
        self.settings = {option.name: options.get(option.name, option.default) for option in self.options}

    @property
    def side(self) -> int:
        """The side of the images in pixels. Raises UserError if the class sets none."""
        if self.image_size is None:
            raise UserError(f"class {type(self).__name__} sets `image_size` to None; give the side of its images")
        return self.image_size

    @classmethod
    def undefined(cls) -> list[str]:
        """What a subclass must define but does not; attributes of its instances are checked when they are used."""
        needed = ["num_tasks", "num_classes", "image_size"]
        if cls.layouts:
            needed.append("folder")
        elif cls.load is Dataset.load:
            return ["layouts"]
        return [name for name in needed if not hasattr(cls, name)]

    @classmethod
    def has_source(cls) -> bool:
        """Whether it can be downloaded from an official source."""
        return any(layout.has_source for layout in cls.layouts)

    def load(self, data_root: Path) -> Arrays:
        """Read the images.

        Args:
            data_root: the folder that holds the datasets' folders.

        Raises:
            UserError: nothing is there, or what is there is damaged, of another shape or may not be read.
        """
        from datasets.layouts.converted import read_shared

        with naming_forbidden(data_root):
            found = self._find(data_root)
            if found is None:
                raise UserError(self._missing(data_root))
            content = read_shared(*found, self, data_root)
            arrays = self.assemble(content)
            arrays.conversions = content.conversions
            return arrays

    def download(self, data_root: Path) -> None:
        """Download the official files that are missing; does nothing if the data is stored in another layout.

        Raises:
            UserError: there is no official source, or it cannot be reached.
        """
        if not self.layouts:
            return  # it comes with the repository
        if not self.has_source():
            raise UserError(f"{self.name} has no official source to download: provide {self._wanted(data_root)}")
        with naming_forbidden(data_root):
            found = self._find(data_root)
            layout = found[0] if found else next(layout for layout in self.layouts if layout.has_source)
            if layout.has_source:
                layout.download(data_root, self)

    def describe(self, data_root: Path) -> str:
        """One line: what was found, what is wrong with it, or what to put where."""
        try:
            with naming_forbidden(data_root):
                found = self._find(data_root)
                if found is None:
                    return self._missing(data_root)
                layout, path = found
                return f"{self.name}: {layout.inspect(path, self)}"
        except UserError as error:
            return f"{self.name}: {error}"

    def transform(self, protocol: str, arrays: Arrays) -> "Transform":
        """How training images are augmented and all images normalised. Raises UserError for an unknown protocol."""
        return self.make_transform(protocol, arrays, {})

    def make_transform(self, protocol: str, arrays: Arrays, changes: dict[str, Any]) -> "Transform":
        """The transform of a protocol, with some of its fields changed."""
        from utils.data.augment import Transform

        if protocol not in self.transforms:
            some = f'`transforms = {{"{protocol}": {{"crop_padding": 4, "flip": True}}}}`'
            known = " or ".join(self.transforms)
            advice = f"choose {known}" if known else f"give its class some, such as {some}"
            raise UserError(f"--dataset {self.name} has no transforms for --protocol {protocol}; {advice}")
        values = {"mean": arrays.mean, "std": arrays.std} | self.transforms[protocol] | changes
        try:
            return Transform(**values)
        except TypeError as error:
            raise UserError(f"class {type(self).__name__}, its transforms for {protocol!r}: {error}") from error

    def assemble(self, content: Content) -> Arrays:
        """Checked arrays from what a layout has read."""
        for name in ("class_names", "mean", "std"):
            if not hasattr(self, name):
                raise UserError(f"class {type(self).__name__} does not define `{name}`, which its images need")
        if len(self.class_names) != self.num_classes:
            names = f"`class_names` has {len(self.class_names)} names"
            raise UserError(f"class {type(self).__name__}: {names}, but `num_classes` is {self.num_classes}")
        arrays = Arrays(*content[:4], self.class_names, self.mean, self.std, content.origin, self.on_disk)
        if self.image_size not in (None, arrays.train_x.shape[1]):
            raise UserError(
                f"{content.origin['train_x']} has images of {_size(arrays.train_x)}; "
                f"{self.name} needs {self.image_size}x{self.image_size}"
            )
        return arrays

    def _find(self, data_root: Path) -> tuple[Layout, Path] | None:
        for layout in self.layouts:
            path = layout.find(data_root, self)
            if path is not None:
                return layout, path
        return None

    def _missing(self, data_root: Path) -> str:
        path = "" if data_root == Path("data") else f" --data_root {shlex.quote(str(data_root))}"
        fetch = f"download it with python run.py data --download {self.folder}{path}, " if self.has_source() else ""
        return (
            f"{self.name}: no data found. Give --data_root (now {data_root}), {fetch}or provide "
            f"{self._wanted(data_root)}"
        )

    def _wanted(self, data_root: Path) -> str:
        return "; or ".join(layout.wanted(data_root, self) for layout in self.layouts)


@contextlib.contextmanager
def naming_forbidden(data_root: Path) -> Iterator[None]:
    """Turn a missing permission into a UserError that names the file."""
    try:
        yield
    except PermissionError as error:
        raise UserError(
            f"{error.filename or data_root}: {error.strerror or 'not permitted'}; make it readable for this account, "
            "or give another --data_root"
        ) from error


def count_images(num_train: int, num_test: int, dataset: Dataset) -> str:
    """The numbers of images in words, with those of the original if they differ."""
    text = f"{num_train} training and {num_test} test images"
    if dataset.num_images in (None, (num_train, num_test)):
        return text
    return f"{text} (the original has {dataset.num_images[0]} and {dataset.num_images[1]})"
