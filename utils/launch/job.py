"""A run as the launcher has it: its command line, resolved as the run itself would, its data and its record."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from utils.config.configuration import Configuration, configure, readable_name
from utils.errors import UserError
from utils.records.collect import read_run
from utils.records.ledger import Axes
from utils.records.record import Record
from utils.records.state import RunState


@dataclass(frozen=True)
class CommonOptions:
    """The options that all runs of a plan share.

    Attributes:
        results_dir: the folder of the groups.
        group: the folder of these runs inside it.
        data_root: where the datasets are.
        threads: of each run; None leaves it to the run.
        mps_percent: of the multiprocessors of a GPU, which each run may use; None leaves it to the run.
        keeps_models: whether complete runs keep their trained weights.
    """

    results_dir: Path
    group: str
    data_root: Path
    threads: int | None = None
    mps_percent: float | None = None
    keeps_models: bool = False

    @property
    def folder(self) -> Path:
        """The folder of the group."""
        return self.results_dir / self.group

    def on(self, mps_percent: float | None) -> "CommonOptions":
        """For runs that have that part of a GPU, unless another one is given."""
        return replace(self, mps_percent=mps_percent) if self.mps_percent is None else self

    def as_json(self) -> dict[str, Any]:
        """The options as JSON values, which `from_json` reads."""
        return {**asdict(self), "results_dir": str(self.results_dir), "data_root": str(self.data_root)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "CommonOptions":
        """What `as_json` gave. Raises LookupError, TypeError."""
        folders = {name: Path(content[name]) for name in ("results_dir", "data_root")}
        return cls(**{**content, **folders})

    @property
    def words(self) -> tuple[str, ...]:
        """The options as words of a run's command line."""
        folders = ("--results_dir", str(self.results_dir), "--data_root", str(self.data_root))
        threads = () if self.threads is None else ("--threads", str(self.threads))
        percent = () if self.mps_percent is None else ("--mps_percent", f"{self.mps_percent:g}")
        keeps = () if self.keeps_models else ("--keep_model", "0")
        return ("--group", self.group, *folders, *threads, *percent, *keeps)


@dataclass(frozen=True)
class Data:
    """What a plan needs to know about a dataset.

    Attributes:
        fingerprint: of images and labels (`datasets/arrays.py`); empty if they could not be read.
        class_sizes: training images of each class, in the order of the data.
        test_sizes: test images of each class; empty where a plan has been checked before.
    """

    fingerprint: str
    class_sizes: tuple[int, ...]
    test_sizes: tuple[int, ...] = ()


class DataFacts:
    """Reads each dataset once per plan.

    What is missing or damaged is noted, so that everything else that is wrong with a plan is reported first.

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
        counts = (np.bincount(each, minlength=arrays.num_classes) for each in (arrays.train_y, arrays.test_y))
        return Data(arrays.fingerprint(), *(tuple(each.tolist()) for each in counts))


@dataclass(frozen=True)
class Job:
    """One run of the plan.

    Attributes:
        words: its command line after `utils/main.py`, without the `CommonOptions`.
        config: the resolved configuration.
        data: what is known of its data.
        identity: what the results depend on.
        record: its folder.
        axes: the plan's, of which it has one value each.
    """

    words: tuple[str, ...]
    config: Configuration
    data: Data
    identity: str
    record: Record
    axes: Axes

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.record.folder.name

    @property
    def has_data(self) -> bool:
        """Whether its data were found; without them its identity and its record are not known."""
        return bool(self.data.fingerprint)

    def state(self) -> RunState:
        """Its state, read from its record now."""
        return read_run(self.record.folder).state


def kind_of(name: str) -> str:
    """The kind of a run: its readable name without the seed, which is the same for all its hyperparameters."""
    return name.rpartition("-s")[0] or name


def make_job(
    words: tuple[str, ...], common: CommonOptions, data_of: Callable[[Configuration], Data], axes: Axes
) -> Job:
    """The run of a command line.

    Args:
        words: after `utils/main.py`, without the common options.
        common: options that all runs share.
        data_of: gives what is known of a configuration's data.
        axes: the plan's.

    Raises:
        UserError: there cannot be such a run.
    """
    config = configure([*words, "--group", common.group, "--results_dir", str(common.results_dir)])
    data = data_of(config)
    identity = config.identity(data.fingerprint)
    record = Record.of_run(common.results_dir, common.group, readable_name(config), identity)
    return Job(words, config, data, identity, record, axes)


@contextmanager
def naming(job: Job) -> Iterator[None]:
    """A mistake in a run's options is reported with the run's name, as a plan has many."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{job.name}: {error}") from error
