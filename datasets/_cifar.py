"""What the two CIFAR datasets share (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)."""

from typing import TYPE_CHECKING, ClassVar

from datasets.arrays import NON_SQUARE, Arrays, Dataset
from utils.config.options import Condition, Option
from utils.errors import UserError

if TYPE_CHECKING:
    from utils.data.augment import Transform

# Of the offline studies, whatever the dataset (Masana et al., FACIL, 2020; Cha et al., CVPR 2023).
_OFFLINE_CONSTANTS = {"mean": (0.5071, 0.4866, 0.4409), "std": (0.2009, 0.1984, 0.2023)}


class Cifar(Dataset):
    """50,000 training and 10,000 test images of 32x32 pixels.

    Offline, training images are padded and then cropped at a random size and resized, as in the published runs, or only
    shifted, as is usual. The transforms `podnet` are those of PODNet and AFC (Douillard et al., ECCV 2020).
    """

    image_size = 32
    num_images = (50_000, 10_000)
    options = (
        Option(
            "cifar_crop",
            str,
            "resized",
            "offline crop of training images: of random size, then resized; or only shifted",
            choices=("resized", "shift"),
            active_when=(
                Condition(
                    ("transforms",),
                    lambda transforms: transforms == "offline",
                    "it belongs to the offline transforms, and this run uses those of {0}",
                ),
            ),
        ),
        NON_SQUARE,
    )
    transforms: ClassVar = {
        "online": {"crop_padding": 4, "flip": True},
        "offline": {"crop_padding": 4, "flip": True, "resized_crop": True, **_OFFLINE_CONSTANTS},
        "podnet": {
            "crop_padding": 4,
            "flip": True,
            "brightness": 63 / 255,
            "mean": (0.5071, 0.4867, 0.4408),
            "std": (0.2675, 0.2565, 0.2761),
        },
    }

    def transform(self, protocol: str, arrays: Arrays) -> "Transform":
        shifted = self.settings["cifar_crop"] == "shift"
        if shifted and protocol != "offline":
            raise UserError(f"--cifar_crop changes nothing with the {protocol} transforms, only offline")
        return self.make_transform(protocol, arrays, {"resized_crop": False} if shifted else {})
