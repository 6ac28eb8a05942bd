"""Published figures to stand beside ours, from `published.json`, each with its source and its setting."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.records.collect import Run

_ROUNDING = 0.05  # of the differences of printed figures


@dataclass(frozen=True)
class PublishedFigure:
    """A published figure, Class-IL.

    Attributes:
        value: percent.
        source: the paper.
        setting: the published setting in words.
        options: every option of the published runs that changes figures, as far as they are known.
        remark: what to know about this figure; mostly empty.
    """

    value: float
    source: str
    setting: str
    options: Mapping[str, Any] = field(default_factory=dict)
    remark: str = ""


def find(values: Mapping[str, Any], norm: str, metric: str) -> PublishedFigure | None:
    """The published figure of a cell, None where there is none.

    Args:
        values: options of the cell's runs by name, with `num_tasks` (`values_of` gives both); dataset, method,
            backbone, memory, protocol, number of tasks and groups of channels must be the published ones. What is not
            named is not compared, so that a column's values do as well.
        norm: the norm layer.
        metric: its name in the records: A_f, A_a, F or A_l.
    """
    stored = _load()
    published_norm = _published_norm(stored, norm, values)
    if published_norm is None:
        return None
    method = values.get("model", "")
    for name, setting in stored["settings"].items():
        figures = stored["figures"][name].get(method, {}).get(published_norm, {})
        if metric in figures and _matches(_conditions(setting, method), values):
            source = stored["sources"][setting["source"]]
            place = {"setting": name, "method": method, "norm": published_norm, "metric": metric}
            remarks = [*_remarks(stored, place), *_doubts(figures, metric)]
            text = f"{setting['description']}; {source['remark']}"
            options = _options(stored, setting, method, published_norm)
            return PublishedFigure(figures[metric], source["citation"], text, options, "; ".join(remarks))
    return None


def values_of(run: Run) -> dict[str, Any]:
    """The options of a complete run and its number of tasks, for `find` and `differences`."""
    return {**run.values, "num_tasks": run.known_result.num_tasks}


def differences(figure: PublishedFigure, values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Options in which runs differ from the published ones, by name: (ours, published)."""
    ours = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {
        name: (ours[name], published)
        for name, published in figure.options.items()
        if name in ours and ours[name] != published
    }


def gain(dataset: str, protocol: str) -> str | None:
    """What is published of AdaB2N over BN on a dataset, in a sentence: only the largest gain, no cells."""
    stored = _load()["gains"]
    points = stored["points"].get(dataset) if protocol == stored["protocol"] else None
    if points is None:
        return None
    source = f"{_load()['sources'][stored['source']]['citation']}; {stored['setting']}"
    return f"{dataset}: gains of {stored['norm']} over {stored['baseline']} of up to {points:.2f} points ({source})"


def differences_from_gain(values: Mapping[str, Any]) -> dict[str, tuple[Any, list[Any]]]:
    """Options in which runs differ from those of the published gains, by name: (ours, those published)."""
    by_dataset = _load()["gains"]["options"]
    options = {**by_dataset["*"], **by_dataset.get(str(values.get("dataset")), {})}
    # What a method has no use for, such as weights of other methods' terms, is None or not named.
    named = {name: (values[name], published) for name, published in options.items() if values.get(name) is not None}
    return {name: pair for name, pair in named.items() if pair[0] not in pair[1]}


@functools.cache
def _load() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def _published_norm(stored: Mapping[str, Any], norm: str, values: Mapping[str, Any]) -> str | None:
    """The name under which this layer with these options is published."""
    cases = stored["norms"].get(norm, [{"name": norm, "match": {}}])
    return next((case["name"] for case in cases if _matches(case["match"], values)), None)


def _conditions(setting: Mapping[str, Any], method: str) -> dict[str, Any]:
    backbones = setting["backbones"]
    # Figures on a held-out part of the training data are not to be compared with figures on the test set.
    stream = {"stream": "split", "first_task_classes": None, "imbalance": "none", "validation": 0, "budget_steps": 0}
    return {**setting["match"], "backbone": backbones.get(method, backbones["*"]), **stream}


def _options(stored: Mapping[str, Any], setting: Mapping[str, Any], method: str, norm: str) -> dict[str, Any]:
    """The options of a published cell: those of all methods, of its method and of its norm layer."""
    by_method = setting["options"]
    return {**by_method["*"], **by_method.get(method, {}), **stored["norm_options"].get(norm, {})}


def _matches(conditions: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return all(values[name] == wanted for name, wanted in conditions.items() if name in values)


def _remarks(stored: Mapping[str, Any], place: Mapping[str, str]) -> list[str]:
    found = [entry for entry in stored["remarks"] if all(entry.get(name, at) == at for name, at in place.items())]
    return [entry["remark"] for entry in found]


def _doubts(figures: Mapping[str, float], metric: str) -> list[str]:
    """F cannot be below A_l − A_f, as its maxima are at least the diagonal; some printed figures are."""
    least = figures["A_l"] - figures["A_f"]
    if metric != "F" or figures["F"] > least - _ROUNDING:
        return []
    return [f"printed below A_l − A_f = {least:.2f}, which no run can give"]
