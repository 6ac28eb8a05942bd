"""Online and offline are data: named sets of defaults that the training loop knows nothing of."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """The defaults of one way to run class-incremental learning.

    Attributes:
        head: the kind of classifier (`models/heads.py`).
        class_order: the rule that turns a seed into the order of the classes (`datasets/stream.py`).
        values: defaults of options.
        leading_metrics: the metrics that are shown first.
    """

    head: str
    class_order: str
    values: dict[str, Any] = field(default_factory=dict)
    leading_metrics: tuple[str, ...] = ()


PROTOCOLS = {
    # Lyu et al., NeurIPS 2023, on mammoth: one epoch, small batches, one classifier over all classes.
    "online": Protocol(
        head="linear",
        class_order="online",
        values={
            "backbone": "resnet18",
            "epochs": 1,
            "batch_size": 10,
            "optim_wd": 0.0,
            "optim_mom": 0.0,
            "optim_nesterov": False,
            "class_il_outputs": "all",
        },
        leading_metrics=("A_f", "forgetting"),
    ),
}
