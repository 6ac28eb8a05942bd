"""A stream over your own images: `{train,test}_{x,y}.npy` in the data root itself."""

import math
from typing import TYPE_CHECKING

import numpy as np

from datasets.arrays import (
    NON_SQUARE,
    Arrays,
    Content,
    Dataset,
    check_images,
    check_label_type,
    chunks_of_rows,
)
from datasets.layouts.four_arrays import FourArrays
from utils.config.options import Option, flag, ranged
from utils.config.registry import DATASETS
from utils.errors import UserError

if TYPE_CHECKING:
    from utils.data.augment import Transform


@DATASETS.register()
class SeqArrays(Dataset):
    """Number of classes, image size, mean and standard deviation are taken from the training data."""

    num_tasks = 5
    num_classes = None
    image_size = None
    folder = ""
    layouts = (FourArrays(),)
    options = (
        Option("crop_padding", ranged(int, 0), 0, "random crops after padding by this many pixels"),
        flag("flip", "random horizontal flips"),
        NON_SQUARE,
    )

    def transform(self, protocol: str, arrays: Arrays) -> "Transform":
        """The augmentation set by the options, whatever the protocol."""
        from utils.data.augment import Transform

        return Transform(self.settings["crop_padding"], self.settings["flip"], arrays.mean, arrays.std)

    def assemble(self, content: Content) -> Arrays:
        """Checked arrays, with constants computed from them."""
        check_images(content.train_x, content.origin["train_x"])
        num_classes = _count_classes(content.train_y, content.origin["train_y"])
        mean, std = measure_channels(content.train_x)
        if min(std) == 0:
            raise UserError(f"{content.origin['train_x']} has a channel of a single value; give real images")
        if self.settings["crop_padding"] >= content.train_x.shape[1]:
            raise UserError(f"--crop_padding must be below the side of the images, {content.train_x.shape[1]} pixels")
        return Arrays(*content[:4], tuple(map(str, range(num_classes))), mean, std, content.origin)


def _count_classes(labels: np.ndarray, where: str) -> int:
    check_label_type(labels, where)
    present = np.unique(labels)
    for expected, label in enumerate(present.tolist()):
        if label != expected:
            raise UserError(f"{where} has label {label} but not label {expected}; number the classes from 0 on")
    return len(present)


def measure_channels(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of each channel of [N, H, W, C] uint8 images scaled to [0, 1]."""
    counts = np.zeros((images.shape[3], 256), dtype=np.int64)
    for chunk in chunks_of_rows(images, np.arange(len(images))):
        for channel in range(len(counts)):
            counts[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    moments = [_mean_and_std(channel) for channel in counts.tolist()]
    return tuple(mean for mean, _ in moments), tuple(std for _, std in moments)


def _mean_and_std(counts: list[int]) -> tuple[float, float]:
    """Mean and deviation of values 0 to 255 with these counts, scaled to [0, 1]; the sums are exact integers."""
    total = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    return first / total / 255, math.sqrt((total * second - first * first) / total**2) / 255
