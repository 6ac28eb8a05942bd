"""From a grid to the list of runs: configurations resolved as a run would, equal computations merged."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.configuration import Configuration, configure, readable_name, spellings
from utils.errors import UserError
from utils.launch.grid import Grid
from utils.record import Record
from utils.registry import BACKBONES, DATASETS, METHODS, NORMS

COMPLETE, DIVERGED, STARTED, NEW = "complete", "diverged", "started", "new"


@dataclass(frozen=True)
class Job:
    """One run of the plan.

    Attributes:
        words: its command line after `utils/main.py`, without where and how it runs.
        config: the resolved configuration.
        identity: what the results depend on.
        record: its folder.
    """

    words: tuple[str, ...]
    config: Configuration
    identity: str
    record: Record

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.record.folder.name

    def state(self) -> str:
        """`complete`, `diverged`, `started` or `new`, as the disk has it now."""
        if self.record.complete:
            return COMPLETE
        if self.record.failure_path.exists():
            return DIVERGED
        return STARTED if self.record.checkpoint_path.exists() else NEW


@dataclass(frozen=True)
class Plan:
    """All runs of a grid.

    Attributes:
        jobs: one per computation, in the order in which they are started: seed by seed.
        num_asked: runs of the product, before equal ones were merged.
    """

    jobs: tuple[Job, ...]
    num_asked: int

    @property
    def num_merged(self) -> int:
        """Runs that are the same computation as another one."""
        return self.num_asked - len(self.jobs)


class Fingerprints:
    """The digest of each dataset, read once per plan."""

    def __init__(self, data_root: Path) -> None:
        self._data_root = data_root
        self._known: dict[tuple[str, tuple[tuple[str, Any], ...]], str] = {}

    def of(self, config: Configuration) -> str:
        """The fingerprint of a configuration's data. Raises UserError if they are missing or damaged."""
        options = config.chosen(config.parts.dataset.options)
        key = (config.dataset, tuple(sorted(options.items())))
        if key not in self._known:
            self._known[key] = config.parts.dataset(**options).load(self._data_root).fingerprint()
        return self._known[key]


def make_plan(grid: Grid, extras: Mapping[str, Sequence[str]], where: "Where") -> Plan:
    """Resolve every run of a grid.

    Args:
        grid: what to run.
        extras: further typed options of runs, by name; each run takes those that its parts use.
        where: the places that all runs share.

    Raises:
        UserError: an unknown name, an option that no run uses, a run that cannot be, missing data.
    """
    fingerprints = Fingerprints(where.data_root)
    jobs: dict[str, Job] = {}
    used: set[str] = set()
    num_asked = 0
    for words in _products(grid, extras, used):
        num_asked += 1
        config = configure([*words, "--group", where.group, "--results_dir", str(where.results_dir)])
        identity = config.identity(fingerprints.of(config))
        if identity not in jobs:
            record = Record.of_run(where.results_dir, where.group, readable_name(config), identity)
            jobs[identity] = Job(tuple(words), config, identity, record)
    unused = [name for name in extras if name not in used]
    if unused:
        raise UserError(f"no run of this plan uses --{unused[0]}")
    return Plan(tuple(jobs.values()), num_asked)


@dataclass(frozen=True)
class Where:
    """The places that all runs of a plan share."""

    results_dir: Path
    group: str
    data_root: Path


def _products(grid: Grid, extras: Mapping[str, Sequence[str]], used: set[str]) -> Iterator[list[str]]:
    """The command line of every run, with the options that its parts use; notes which of `extras` are used."""
    fixed = dict(_named_words(grid.fixed))
    cells = itertools.product(grid.seeds, grid.datasets, grid.models, grid.methods, grid.epochs)
    for seed, dataset, model, norm, epochs in cells:
        backbone = list(extras.get("backbone", fixed.get("backbone", [])))
        accepted = spellings(model, dataset, norm, backbone[0] if backbone else None)
        used |= extras.keys() & accepted.keys()
        further = {accepted[name]: words for name, words in {**fixed, **extras}.items() if name in accepted}
        axes = {"buffer_size": grid.values(grid.buffer_sizes, DATASETS.canonical(dataset))}
        axes |= {name: grid.values(axis, DATASETS.canonical(dataset)) for name, axis in grid.searched.items()}
        axes = {name: values for name, values in axes.items() if name in accepted and values and name not in further}
        for chosen in itertools.product(*axes.values()):
            words = ["--model", METHODS.canonical(model), "--dataset", DATASETS.canonical(dataset)]
            words += ["--nl", NORMS.canonical(norm), "--seed", str(seed), "--epochs", str(epochs)]
            words += [word for name, value in zip(axes, chosen, strict=True) for word in (f"--{name}", str(value))]
            yield words + [word for name, values in further.items() for word in (f"--{name}", *values)]


def _named_words(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """`--nf 16 --fast` as [("nf", ["16"]), ("fast", [])].

    Raises:
        UserError: a word that belongs to no option.
    """
    named: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            named.append((name, [value] if equals else []))
        elif named:
            named[-1][1].append(word)
        else:
            raise UserError(f"{word!r} belongs to no option")
    return named


def read_extras(words: Sequence[str]) -> dict[str, list[str]]:
    """Options for the runs that the launcher itself does not know, by their main name."""
    return dict(_named_words(words))


def known_parts() -> dict[str, list[str]]:
    """The names that the axes take."""
    registries = {"models": METHODS, "datasets": DATASETS, "methods": NORMS, "backbone": BACKBONES}
    return {axis: registry.names() for axis, registry in registries.items()}
