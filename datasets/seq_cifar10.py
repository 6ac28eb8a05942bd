"""Split CIFAR-10: 5 tasks of 2 classes (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)."""

from typing import ClassVar

from datasets._cifar import Cifar
from datasets.layouts.four_arrays import FourArrays
from datasets.layouts.image_folder import ImageFolder
from datasets.layouts.official import OfficialCifar
from utils.config.registry import DATASETS


@DATASETS.register()
class SeqCifar10(Cifar):
    """Online constants and transforms as Lyu et al., NeurIPS 2023."""

    num_tasks = 5
    num_classes = 10
    folder = "cifar10"
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2615)
    layouts = (
        FourArrays(),
        OfficialCifar(
            "cifar-10-batches-py",
            (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
            "CIFAR10",
        ),
        ImageFolder(),
    )
    # As for CIFAR-100: the offline studies have no schedule of their own for CIFAR-10.
    protocol_values: ClassVar = {"offline": {"epochs": 160, "milestones": (80, 120), "lr_decay": 0.1}}
