"""A dataset that stays on the disk, as ImageNet-100 does; its code is part of its runs' identity."""

from datasets.seq_arrays import SeqArrays
from utils.config.registry import DATASETS


@DATASETS.register("seq-mapped")
class SeqMapped(SeqArrays):
    """The arrays of the data root, read batch by batch."""

    on_disk = True
