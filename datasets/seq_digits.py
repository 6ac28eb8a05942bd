"""Split digits: 5 tasks of 2 classes, included in the repository, for first steps and tests.

The images are the Optical Recognition of Handwritten Digits of the UCI Machine Learning Repository (Alpaydin and
Kaynak, 1998, CC BY 4.0): 1797 digits of 8x8 pixels with values 0 to 16.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np

from datasets.arrays import Arrays, Content, Dataset
from utils.config.registry import DATASETS

_FILE = Path(__file__).with_name("digits.npz")


@DATASETS.register()
class SeqDigits(Dataset):
    """Grey digits as 16x16 RGB images, every fifth image of a class for testing."""

    num_tasks = 5
    num_classes = 10
    image_size = 16
    folder = ""
    class_names = tuple("0123456789")
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    transforms: ClassVar = {protocol: {"crop_padding": 2, "flip": False} for protocol in ("online", "offline")}
    # This suite's choice: enough for every method to learn them.
    protocol_values: ClassVar = {"offline": {"epochs": 10, "milestones": (5, 8), "lr_decay": 0.1}}

    def load(self, data_root: Path) -> Arrays:
        """The digits; the data root is not used."""
        with np.load(_FILE, allow_pickle=False) as file:
            images, labels = _enlarge(file["images"]), file["labels"].astype(np.int64)
        is_test = _rank_in_class(labels) % 5 == 4
        origin = dict.fromkeys(("train_x", "train_y", "test_x", "test_y"), str(_FILE))
        return self.assemble(Content(images[~is_test], labels[~is_test], images[is_test], labels[is_test], origin))

    def describe(self, data_root: Path) -> str:
        """One line: what was found."""
        return f"{self.name}: included in the repository, 1797 images of 16x16"


def _enlarge(images: np.ndarray) -> np.ndarray:
    """Images [N, 16, 16, 3] uint8 from [N, 8, 8] with values 0 to 16: each pixel doubled, three equal channels."""
    scaled = np.rint(images * (255 / 16)).astype(np.uint8)
    doubled = scaled.repeat(2, axis=1).repeat(2, axis=2)
    return doubled[..., None].repeat(3, axis=3)


def _rank_in_class(labels: np.ndarray) -> np.ndarray:
    """For each image [N], how many images of its class come before it."""
    ranks = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        ranks[rows] = np.arange(len(rows))
    return ranks
