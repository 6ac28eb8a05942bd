"""What the files of a record hold. Each is parsed once, here, into a typed object: it is sound, or it is damaged."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from utils.errors import UserError

SCHEMA_VERSION = 1
SCENARIOS = ("class_il", "task_il")  # task unknown (argmax over all classes) and task given
_PLAIN = str | int | float | bool | None
_KINDS = {
    **dict.fromkeys(("dataset", "model", "backbone", "protocol", "buffer_mode", "forward", "notes"), str | None),
    **dict.fromkeys(("buffer_size", "epochs", "batch_size", "minibatch_size", "nf", "validation"), int | float | None),
}
_COUNTS = (*SCENARIOS, "total")

Matrix = list[list[int | None]]
Content = TypeVar("Content")


class UnreadableRecord(UserError):
    """A file of a record cannot be read now; it may be whole."""


class DamagedRecord(UnreadableRecord):
    """A file of a record holds something other than what was written."""


class OtherVersion(UnreadableRecord):
    """A file of a record was written by a version of the suite that this one cannot read."""


@dataclass(frozen=True)
class RecordedConfig:
    """What `config.json` holds.

    Attributes:
        values: the resolved options.
        origins: where each value came from.
        command: the command line.
        data: fingerprint of the data; empty if unknown.
        plugins: digests of the code of parts that are not as released.
        environments: versions and hardware of every start that the run goes on from, the last one at the end, each
            kind once; empty if unknown.
    """

    values: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    data: str = ""
    plugins: tuple[str, ...] = ()
    environments: tuple[Mapping[str, Any], ...] = ()

    @property
    def environment(self) -> Mapping[str, Any]:
        """The environment of the last start."""
        return self.environments[-1] if self.environments else {}

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "RecordedConfig":
        """Raises ValueError if it is damaged."""
        last = [plain_mapping(content["environment"])] if content.get("environment") is not None else []
        return cls(
            values=option_values(content.get("values")),
            origins={name: text(origin) for name, origin in mapping(content.get("origins", {})).items()},
            command=texts(content.get("command")),
            data=text(content.get("data", "")),
            plugins=texts(content.get("plugins", [])),
            environments=tuple(map(plain_mapping, sequence(content.get("environments", last)))),
        )


@dataclass(frozen=True)
class NormMeasurements:
    """What was measured of the norm layers.

    Attributes:
        retuned: counts of the re-tuned network, as those of the run; None if no layer has anything to re-tune.
        distances: by layer, `mean` and `std`, [T] each; None where not measured.
    """

    retuned: Mapping[str, Matrix] | None
    distances: Mapping[str, Mapping[str, list[float | None]]]

    @classmethod
    def parse(cls, content: Any, num_tasks: int) -> "NormMeasurements":
        """Raises ValueError if it is damaged."""
        found, distances = mapping(content), {}
        for layer, pair in mapping(found.get("distances")).items():
            rows = {kind: sequence(mapping(pair).get(kind)) for kind in ("mean", "std")}
            _require(all(len(row) == num_tasks for row in rows.values()), rows)
            distances[layer] = {kind: [_number_or_none(each) for each in row] for kind, row in rows.items()}
        retuned = None if found.get("retuned") is None else _counts(found["retuned"])
        _require(retuned is None or len(retuned["total"]) == num_tasks, retuned)
        return cls(retuned, distances)


@dataclass(frozen=True)
class Result:
    """What `result.json` holds.

    Attributes:
        metrics: by scenario, as `utils.records.metrics.summarise` gives them: computed again from the counts, so that
            a table does not depend on the version that wrote the record; those that only a plug-in knows as written.
        counts: `class_il`, `task_il` and `total`, [T][T] each; None where not measured.
        untrained: the same counts of the untrained network, [T] each; None if not measured.
        anytime: mean Class-IL accuracy in percent over the tasks seen, at every evaluation point.
        classes: at the end, by label: `trained`, training images; `correct` in Class-IL and `total`, test images;
            None in records that lack it.
        points: the evaluation points inside the stream (`utils/run/measurements.py`); None if none were asked for.
        norms: what was measured of the norm layers; None if it was not asked for.
        weights_sha256: of the final weights.
        steps: that were trained.
        cost: of them, in rows (`utils/run/measurements.py`); None in records that lack it.
        seconds: where the time went, by kind, such as `training`.
        peak_memory: `host_bytes`, and `device_bytes` on a GPU.
    """

    metrics: Mapping[str, Mapping[str, Any]]
    counts: Mapping[str, Matrix] = field(default_factory=dict)
    untrained: Mapping[str, list[int]] | None = None
    anytime: tuple[float, ...] = ()
    classes: Mapping[str, list[int]] | None = None
    points: Mapping[str, list[Any]] | None = None
    norms: NormMeasurements | None = None
    weights_sha256: str = ""
    steps: int = 0
    cost: Mapping[str, int] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory: Mapping[str, float] = field(default_factory=dict)

    @property
    def num_tasks(self) -> int:
        """T."""
        return len(self.metrics["class_il"].get("A", ()))

    @property
    def forward_equivalents_per_image(self) -> float | None:
        """What training on an image of the stream costs, in forward passes of one image; None if it is not known.

        A backward pass counts as two forward passes, as is usual (Kaplan et al., 2020): one for the gradients of the
        activations and one for those of the weights. So plain training costs 3, and replaying one row beside each of
        the stream 6.
        """
        if not self.cost or not self.cost["images"]:
            return None
        return (self.cost["forward_rows"] + 2 * self.cost["backward_rows"]) / self.cost["images"]

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "Result":
        """Raises ValueError if it is damaged."""
        from utils.records.metrics import METRICS, summarise  # which need numpy

        counts = _counts(content.get("counts"))
        num_tasks = len(counts["total"])
        measured: dict[str, Any] = {
            "untrained": _if_given(content.get("untrained") or None, lambda value: _untrained(value, num_tasks)),
            "anytime": tuple(_number(value) for value in sequence(content.get("anytime", []))),
            "classes": _if_given(content.get("classes") or None, _classes),
            "points": _if_given(content.get("points") or None, _points),
        }
        boundaries = text(content.get("boundaries", "sharp"))
        metrics = summarise(SimpleNamespace(boundaries=boundaries, **measured, **counts))
        for scenario, written in mapping(content.get("metrics", {})).items():
            for name, value in mapping(written).items():
                if scenario in metrics and name not in ("A", *METRICS):
                    metrics[scenario][name] = _number_or_none(value)
        return cls(
            metrics=metrics,
            counts=counts,
            **measured,
            norms=_if_given(content.get("norms"), lambda value: NormMeasurements.parse(value, num_tasks)),
            weights_sha256=text(content.get("weights_sha256", "")),
            steps=_whole(content.get("steps", 0)),
            cost=_if_given(content.get("cost"), _cost),
            seconds={name.removesuffix("_seconds"): each for name, each in _amounts(content, "timings").items()},
            peak_memory=_amounts(content, "peak_memory"),
        )


@dataclass(frozen=True)
class Failure:
    """What `failure.json` holds: an answer that would come back the same way.

    Attributes:
        message: what went wrong, in one line.
    """

    message: str

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "Failure":
        """Raises ValueError if it is damaged."""
        return cls(text(content.get("message", "the loss became NaN or infinite")))


def read_file(path: Path, parse: Callable[[Mapping[str, Any]], Content]) -> Content | None:
    """What a file of a record holds, None if there is no such file.

    Raises:
        UnreadableRecord: it cannot be read now.
        DamagedRecord: it is not as the suite has written it.
        OtherVersion: another version of the suite has written it.
    """
    try:
        content = load_json(path.read_bytes())
        schema = content.get("schema")
        if type(schema) is not int:  # every version writes a number
            raise ValueError("no schema")
        if schema == SCHEMA_VERSION:
            return parse(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, IsADirectoryError):
        advice = "--rerun sets it aside and runs again; or remove the folder"
        raise DamagedRecord(f"{path} is damaged; {advice}") from None
    except OSError as error:
        raise UnreadableRecord(f"{path} cannot be read: {error.strerror}") from None
    raise OtherVersion(
        f"{path} has schema {schema}, this version reads {SCHEMA_VERSION}; choose another --results_dir or --group"
    )


# -- Values of the kinds that files hold; each raises ValueError for any other ----------------------------------------


def load_json(content: bytes) -> dict[str, Any]:
    """The object that a file holds."""
    try:
        return mapping(json.loads(content))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def mapping(value: Any) -> dict[str, Any]:
    """A JSON object."""
    return _require(isinstance(value, dict), value)


def sequence(value: Any) -> list[Any]:
    """A JSON array."""
    return _require(isinstance(value, list), value)


def text(value: Any) -> str:
    """A text."""
    return _require(isinstance(value, str), value)


def texts(value: Any) -> tuple[str, ...]:
    """An array of texts."""
    return tuple(map(text, sequence(value)))


def plain_mapping(value: Any) -> dict[str, Any]:
    """An object of texts, numbers and truth values, or nothing."""
    return _require(all(isinstance(each, _PLAIN) for each in mapping(value).values()), value)


def option_values(value: Any) -> dict[str, Any]:
    """Options of a run, of the kinds that options have: plain ones, or lists of these."""
    found = mapping(value)
    plain = (one for each in found.values() for one in (each if isinstance(each, list) else [each]))
    are_of_kind = all(isinstance(found.get(name), kind) for name, kind in _KINDS.items())
    is_run = isinstance(found.get("nl"), str) and type(found.get("seed")) is int
    return _require(are_of_kind and is_run and all(isinstance(each, _PLAIN) for each in plain), found)


def _require(is_sound: bool, value: Any) -> Any:
    """The value, if it is sound."""
    if not is_sound:
        raise ValueError("not of its kind")
    return value


def _number(value: Any) -> float:
    """A finite number that a float can hold."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return _require(is_number and -sys.float_info.max <= value <= sys.float_info.max, value)


def _number_or_none(value: Any) -> float | None:
    return None if value is None else _number(value)


def _amount(value: Any) -> float:
    return _require(_number(value) >= 0, value)


def _amounts(content: Mapping[str, Any], name: str) -> dict[str, float]:
    """The object of that name, whose values are amounts; empty if there is none."""
    return {key: _amount(value) for key, value in mapping(content.get(name, {})).items()}


def _if_given(value: Any, parse: Callable[[Any], Content]) -> Content | None:
    return None if value is None else parse(value)


def _whole(value: Any) -> int:
    return _require(isinstance(value, int) and _amount(value) >= 0, value)


def _counts(value: Any) -> dict[str, Matrix]:
    """Counts that a test set can give, as square matrices of one size."""
    counts = {name: [sequence(row) for row in sequence(mapping(value).get(name))] for name in _COUNTS}
    num_tasks = len(counts["total"])
    _require(all(len(matrix) == num_tasks for matrix in counts.values()), counts)
    for name in SCENARIOS:
        for correct, total in zip(counts[name], counts["total"], strict=True):
            _check_counts(correct, total, num_tasks)
    return _require(num_tasks > 0, counts)


def _untrained(value: Any, num_tasks: int) -> dict[str, list[int]]:
    counts = {name: sequence(mapping(value).get(name)) for name in _COUNTS}
    for name in SCENARIOS:
        _check_counts(counts[name], counts["total"], num_tasks)
    return counts


def _classes(value: Any) -> dict[str, list[int]]:
    found = {name: sequence(mapping(value).get(name)) for name in ("trained", "correct", "total")}
    for trained, correct, total in zip(*found.values(), strict=True):
        _require(_whole(trained) >= 0 and _whole(correct) <= _whole(total), total)
    return found


def _cost(value: Any) -> dict[str, int]:
    return {name: _whole(mapping(value).get(name)) for name in ("images", "forward_rows", "backward_rows")}


def _points(value: Any) -> dict[str, list[Any]]:
    found = {name: sequence(mapping(value).get(name)) for name in ("step", "task", "images", *_COUNTS)}
    num_columns = len(sequence(found["total"][0])) if found["total"] else 0
    for step, task, images, *counts in zip(*found.values(), strict=True):
        _require(_whole(step) >= 0 and _whole(task) < num_columns and _whole(images) > 0, step)
        class_il, task_il, total = map(sequence, counts)
        for correct in (class_il, task_il):
            _check_counts(correct, total, num_columns)
        _require(any(number is not None for number in total), total)
    return _require(num_columns > 0, found)


def _check_counts(correct: list[Any], total: list[Any], num_tasks: int) -> None:
    _require(len(correct) == len(total) == num_tasks, correct)
    for some, number in zip(correct, total, strict=True):
        if number is None:
            _require(some is None, some)
        else:
            _require(_whole(number) > 0 and (some is None or _whole(some) <= number), some)
