"""Split CIFAR-10: 5 tasks of 2 classes (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)."""

from typing import ClassVar

from datasets.arrays import Dataset
from datasets.layouts.four_arrays import FourArrays
from datasets.layouts.image_folder import ImageFolder
from datasets.layouts.official import OfficialCifar
from utils.registry import DATASETS


@DATASETS.register()
class SeqCifar10(Dataset):
    """50,000 training and 10,000 test images of 32x32 pixels; constants and transforms of Lyu et al., NeurIPS 2023."""

    num_tasks = 5
    num_classes = 10
    image_size = 32
    num_images = (50_000, 10_000)
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
    transforms: ClassVar = {"online": {"crop_padding": 4, "flip": True}}
