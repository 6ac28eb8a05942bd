"""Split ImageNet-100: 10 tasks of 10 classes, the first hundred of ILSVRC-2012 (Russakovsky et al., IJCV 2015)."""

from pathlib import Path
from typing import Any, ClassVar

from datasets.arrays import Arrays, Dataset
from datasets.layouts.decoding import move_up
from datasets.layouts.four_arrays import FourArrays
from datasets.layouts.imagenet import ImageNetFolder
from utils.registry import DATASETS

_CLASS_LIST = Path(__file__).with_name("imagenet100.txt")
_TRANSFORM = {"crop_padding": 0, "flip": True, "resized_crop": True, "test_side": 224}
_SCHEDULE = {"epochs": 100, "milestones": (40, 80), "lr_decay": 0.1, "backbone": "resnet18_imagenet"}


@DATASETS.register()
class SeqImagenet100(Dataset):
    """Images of 256x256 pixels that stay on disk, random crops of 224x224; offline as Cha et al., CVPR 2023.

    The classes and their offline order are those of PODNet (Douillard et al., ECCV 2020), as are the transforms
    `podnet`. Online use is this suite's own: the same transforms and backbone.
    """

    num_tasks = 10
    num_classes = 100
    image_size = 256
    folder = "imagenet100"
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    layouts = (FourArrays(), ImageNetFolder())
    on_disk = True
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

    def load(self, data_root: Path, download: bool = False) -> Arrays:
        """The arrays, decoded from image files if they are not there yet."""
        move_up(data_root / self.folder)  # a decoding that was killed in its last instant
        return super().load(data_root, download)
