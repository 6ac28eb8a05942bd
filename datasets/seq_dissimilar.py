"""Five dissimilar tasks of 10 classes: CIFAR-10, SVHN, MNIST, Fashion-MNIST, STL-10 (Cha et al., CVPR 2023)."""

from typing import ClassVar

from datasets.arrays import Dataset
from datasets.layouts.dissimilar import SOURCES, DissimilarFiles
from datasets.layouts.four_arrays import FourArrays
from utils.config.registry import DATASETS

_TRANSFORM = {"crop_padding": 4, "flip": True}


@DATASETS.register()
class SeqDissimilar(Dataset):
    """Images resized to 32x32 pixels; the tasks differ in size. Digits are flipped too, as in the published runs.

    The order of the five and the number of epochs are not published and are this suite's choice. Classes keep their
    order within each of the five, which affects results only by chance.
    """

    num_tasks = 5
    num_classes = 50
    image_size = 32
    num_images = (248_257, 64_032)
    folder = "dissimilar"
    class_names = tuple(f"{source.reader} {number}" for source in SOURCES for number in range(10))
    mean = (0.5, 0.5, 0.5)
    std = (1.0, 1.0, 1.0)
    layouts = (FourArrays(), DissimilarFiles())
    transforms: ClassVar = {"online": _TRANSFORM, "offline": _TRANSFORM | {"resized_crop": True}}
    protocol_values: ClassVar = {"offline": {"epochs": 100, "milestones": (40, 80), "lr_decay": 0.1}}
    class_orders: ClassVar = {"online": "identity", "offline": "identity"}
