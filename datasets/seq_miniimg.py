"""Split mini-ImageNet: 20 tasks of 5 classes (Vinyals et al., Matching Networks for One Shot Learning, 2016)."""

from typing import ClassVar

from datasets.arrays import NON_SQUARE, Dataset
from datasets.layouts.four_arrays import FourArrays
from datasets.layouts.image_folder import ImageFolder
from utils.config.registry import DATASETS


@DATASETS.register()
class SeqMiniimg(Dataset):
    """50,000 training and 10,000 test images of 84x84 pixels; constants and transforms of Lyu et al., NeurIPS 2023."""

    num_tasks = 20
    num_classes = 100
    image_size = 84
    num_images = (50_000, 10_000)
    folder = "miniimg"
    class_names = tuple(map(str, range(100)))
    mean = (0.47313006, 0.44905752, 0.40378186)
    std = (0.27292014, 0.26559181, 0.27953038)
    layouts = (FourArrays(), ImageFolder())
    options = (NON_SQUARE,)
    transforms: ClassVar = {protocol: {"crop_padding": 4, "flip": True} for protocol in ("online", "offline")}
    # This suite's choice offline: the backbone of the online study, which is designed for these images.
    protocol_values: ClassVar = {
        "online": {"milestones": (35, 60, 75), "lr_decay": 0.2},
        "offline": {"backbone": "resnet18"},
    }
