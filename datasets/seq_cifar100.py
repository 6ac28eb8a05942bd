"""Split CIFAR-100: 10 tasks of 10 classes (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)."""

from typing import ClassVar

from datasets._cifar import Cifar
from datasets.layouts.four_arrays import FourArrays
from datasets.layouts.image_folder import ImageFolder
from datasets.layouts.official import OfficialCifar
from utils.config.registry import DATASETS

_CLASS_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""


@DATASETS.register()
class SeqCifar100(Cifar):
    """Online constants, transforms and schedule as Lyu et al., NeurIPS 2023; offline schedule as Cha et al., 2023."""

    num_tasks = 10
    num_classes = 100
    folder = "cifar100"
    class_names = tuple(_CLASS_NAMES.split())
    mean = (0.5071, 0.4867, 0.4408)
    std = (0.2675, 0.2565, 0.2761)
    layouts = (
        FourArrays(),
        OfficialCifar("cifar-100-python", ("train", "test", "meta"), "CIFAR100"),
        ImageFolder(),
    )
    protocol_values: ClassVar = {
        "online": {"milestones": (35, 45), "lr_decay": 0.1},
        "offline": {"epochs": 160, "milestones": (80, 120), "lr_decay": 0.1},
    }
