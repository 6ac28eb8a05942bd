"""Named sets of options of one run; whatever is typed wins."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # A first result in seconds on any machine, on the embedded digits; a cell of the grid of that name.
    "demo": {
        "model": "er_ace",
        "dataset": "seq-digits",
        "nl": "AdaB2N",
        "nf": 8,
        "buffer_size": 500,
        "batch_size": 32,
        "minibatch_size": 32,
        "epochs": 4,
        "lr": 0.1,
        "milestones": (3,),
        "lr_decay": 0.1,
    },
}
