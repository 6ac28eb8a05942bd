"""The networks of runs, made before the runs and without memory for their weights."""

import warnings
from collections.abc import Iterable
from functools import partial
from typing import Any

from utils.config.configuration import Configuration
from utils.config.registry import as_user_errors
from utils.errors import UserError
from utils.launch.job import Job, naming


def model_bytes(config: Configuration, num_classes: int) -> int:
    """What the weights of a run's network take, with a classifier of as many outputs."""
    backbone = _backbone(config)
    sizes = [each.numel() * each.element_size() for each in backbone.state_dict().values()]
    return sum(sizes) + 4 * backbone.num_features * num_classes


def check_layers(jobs: Iterable[Job]) -> None:
    """Raises UserError if a run's norm layer cannot take the channels of its backbone."""
    first: dict[Any, Job] = {}
    for job in jobs:
        config = job.config
        values = config.chosen((*config.parts.backbone.options, *config.parts.norm.options))
        key = config.dataset, config.backbone, config.nl, config.affine, repr(sorted(values.items()))
        first.setdefault(key, job)
    for job in first.values():
        with naming(job):
            try:
                _backbone(job.config)
            except UserError:
                raise
            except Exception:  # as one of a user's own that cannot be made without memory: the run tells what is wrong
                continue


@as_user_errors()
def _backbone(config: Configuration) -> Any:
    """That of a run, without memory for its weights; what it warns of, the run says itself."""
    import torch

    parts = config.parts
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image_size = parts.dataset.image_size or 32
        options = config.chosen(parts.backbone.options)
        return parts.backbone(partial(parts.norm_layer, config.values), image_size=image_size, **options)
