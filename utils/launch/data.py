"""What a plan has to know of its datasets: their digests, and how many images there are to train on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config.configuration import Configuration
from utils.errors import UserError


@dataclass(frozen=True)
class Data:
    """What is known of a dataset.

    Attributes:
        fingerprint: of images and labels (`datasets/arrays.py`).
        class_sizes: training images of each class, in the order of the data.
    """

    fingerprint: str
    class_sizes: tuple[int, ...]


class DataFacts:
    """Reads each dataset once per plan.

    What is missing or damaged is noted, so that everything else that is wrong with a plan comes first.

    Attributes:
        mistakes: a line for each dataset that cannot be read, with what to put where.
    """

    def __init__(self, data_root: Path) -> None:
        self._data_root = data_root
        self._known: dict[tuple[str, tuple[tuple[str, Any], ...]], Data] = {}
        self.mistakes: list[str] = []

    def of(self, config: Configuration) -> Data:
        """What is known of a configuration's data; nothing if they cannot be read."""
        options = config.chosen(config.parts.dataset.options)
        key = (config.dataset, tuple(sorted(options.items())))
        if key not in self._known:
            self._known[key] = self._read(config.parts.dataset(**options))
        return self._known[key]

    def _read(self, dataset: Any) -> Data:
        import numpy as np

        try:
            arrays = dataset.load(self._data_root)
        except UserError as error:
            self.mistakes.append(str(error))
            return Data("", ())
        return Data(arrays.fingerprint(), tuple(np.bincount(arrays.train_y, minlength=arrays.num_classes).tolist()))
