"""Long tails: fewer training images of some classes than of others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.config.configuration import Configuration
from utils.errors import UserError
from utils.seeds import derive_seed


@dataclass(frozen=True)
class LongTail:
    """The class of rank k, of K, keeps n · ratio^(−k / (K − 1)) images, n those of the largest (Cui et al., CVPR 2019).

    As in long-tailed class-incremental learning (Liu et al., ECCV 2022).

    Attributes:
        ratio: images of the first class to one of the last.
        order: `head_first` (the ordered stream of Liu et al.): classes are ranked as they come in the stream; `random`
            (their shuffled one): in an order drawn from the seed.
        seed: of the run.
    """

    ratio: float
    order: str
    seed: int

    def sizes(self, class_sizes: Sequence[int]) -> list[int]:
        """How many images of each class are kept, of so many; classes in the order of the stream.

        Raises:
            UserError: none of some class.
        """
        num_classes, largest = len(class_sizes), max(class_sizes)
        ranks = np.arange(num_classes)
        if self.order == "random":
            ranks = np.random.default_rng(derive_seed(self.seed, "imbalance")).permutation(num_classes)
        shares = self.ratio ** (-ranks / max(1, num_classes - 1))
        kept = np.floor(largest * shares + 1e-6).astype(np.int64)  # a share of 1 / 100 of 500 images is 5 of them
        if not kept.all():
            raise UserError(
                f"--imbalance_ratio {self.ratio:g} leaves a class without images, as the largest has {largest}: give "
                f"at most {largest}"
            )
        return np.minimum(kept, class_sizes).tolist()

    def keep(self, labels: np.ndarray) -> np.ndarray:
        """Which images are kept, [N] bool, drawn at random from each class; labels [N] as they come in the stream."""
        is_kept = np.zeros(len(labels), dtype=bool)
        for label, size in enumerate(self.sizes(np.bincount(labels).tolist())):
            rows = np.flatnonzero(labels == label)
            draws = np.random.default_rng(derive_seed(self.seed, "imbalance", label))
            is_kept[draws.permutation(rows)[:size]] = True
        return is_kept


def make_long_tail(config: Configuration) -> LongTail | None:
    """The long tail of a run; None if its classes keep all their images."""
    if config.imbalance == "none":
        return None
    return LongTail(config.imbalance_ratio, config.imbalance_order, config.seed)
