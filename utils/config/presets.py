"""Named sets of options of one run; whatever is typed wins."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # A first result in seconds on any machine, on the embedded digits.
    "demo": {
        "model": "er_ace",
        "dataset": "seq-digits",
        "nl": "AdaB2N",
        "nf": 16,
        "buffer_size": 200,
        "lr": 0.05,
    },
}
