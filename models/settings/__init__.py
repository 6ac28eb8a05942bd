"""Published settings per method, dataset and buffer size, each with where it came from."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One published setting.

    Attributes:
        values: learning rate and loss weights; defaults when nothing is typed.
        whole: everything of the stored setting, with its batch sizes and epochs (`--load_best_args`).
        source: where it came from.
    """

    values: dict[str, Any]
    whole: dict[str, Any]
    source: str


@cache
def _stored() -> list[dict[str, Any]]:
    return [
        entry
        for path in sorted(Path(__file__).parent.glob("*.json"))
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


def find_setting(method: str, dataset: str, buffer_size: int | None, protocol: str) -> Setting | None:
    """The setting of a method on a dataset with a buffer size, in a protocol.

    An entry without a buffer size holds for every one, an entry may be of several datasets; one of dataset `*` is for
    those that have none of their own.
    """
    for wanted in (dataset, "*"):
        for entry in _stored():
            datasets = entry["dataset"] if isinstance(entry["dataset"], list) else [entry["dataset"]]
            matches = entry["method"] == method and wanted in datasets
            matches = matches and entry.get("protocol", "online") == protocol
            if matches and entry.get("buffer_size") in (None, buffer_size):
                values = entry["values"]
                return Setting(values, values | entry.get("whole", {}), entry["source"])
    return None
