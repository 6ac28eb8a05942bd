"""Split ImageNet-100: 10 tasks of 10 classes, the first hundred of ILSVRC-2012 (Russakovsky et al., IJCV 2015)."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datasets.arrays import Arrays, Dataset, naming_forbidden
from datasets.layouts.decoding import decoded_classes, move_up
from datasets.layouts.four_arrays import read_array
from datasets.layouts.imagenet import DecodedArrays, ImageNetFolder
from utils.config.options import Option
from utils.config.registry import DATASETS
from utils.errors import UserError

_CLASS_LIST = Path(__file__).with_name("imagenet100.txt")
_TRANSFORM = {"crop_padding": 0, "flip": True, "resized_crop": True, "test_side": 224}
_SCHEDULE = {"epochs": 100, "milestones": (40, 80), "lr_decay": 0.1, "backbone": "resnet18_imagenet"}


@DATASETS.register()
class SeqImagenet100(Dataset):
    """Images of 256x256 pixels that stay on disk, random crops of 224x224; offline as Cha et al., CVPR 2023.

    The classes and their offline order are those of PODNet (Douillard et al., ECCV 2020), as are the transforms
    `podnet`. Online use is this suite's own: the same transforms and backbone.

    The published test images are centre crops of 224x224 pixels; whether the images were resized to 256 pixels before
    is not known. The stored arrays are, so `native` reads the original files again. It changes only the test images:
    exemplars and held-out images are always among the stored training images.
    """

    num_tasks = 10
    num_classes = 100
    image_size = 256
    folder = "imagenet100"
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    layouts = (DecodedArrays(), ImageNetFolder())
    on_disk = True
    options = (
        Option(
            "test_crop",
            str,
            "resized",
            "test on centre crops of the images resized to 256 pixels, or of the original files (native)",
            choices=("resized", "native"),
        ),
    )
    transforms: ClassVar = {
        "online": _TRANSFORM,
        "offline": _TRANSFORM,
        "podnet": _TRANSFORM | {"brightness": 63 / 255},
    }
    protocol_values: ClassVar = {"online": {"backbone": _SCHEDULE["backbone"]}, "offline": _SCHEDULE}
    class_orders: ClassVar = {"offline": "imagenet100"}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.class_names = tuple(_CLASS_LIST.read_text(encoding="ascii").split())

    def load(self, data_root: Path) -> Arrays:
        """The arrays, decoded from image files the first time."""
        with naming_forbidden(data_root):
            move_up(data_root / self.folder)  # if decoding was killed at its very end
            arrays = super().load(data_root)
            return self._with_native_test(arrays, data_root) if self.settings["test_crop"] == "native" else arrays

    def _with_native_test(self, arrays: Arrays, data_root: Path) -> Arrays:
        files = ImageNetFolder().native_test(data_root, self, _TRANSFORM["test_side"])
        test = {name: read_array(file) for name, file in files.items()}
        known = {decoded_classes(Path(origin["test_y"]).parent) for origin in (files, arrays.origin)} - {()}
        if len(known) > 1 or not np.array_equal(test["test_y"], arrays.test_y):
            raise UserError(
                f"{files['test_y']} and {arrays.origin['test_y']} are labels of different images: remove "
                f"{files['test_y']} to decode the image files again"
            )
        origin = arrays.origin | {name: str(file) for name, file in files.items()}
        return replace(arrays, test_x=test["test_x"], test_y=test["test_y"], origin=origin, test_apart=True)
