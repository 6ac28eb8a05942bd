"""Grids, which are named products of runs; what a command line changes of one; and the cells that it expands to.

Nothing here imports torch.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from utils.config.command_line import spellings_of_parts
from utils.config.configuration import accepted_options
from utils.config.options import ABSENT, PART_OPTIONS, SHARED_OPTIONS, Option
from utils.config.registry import DATASETS, METHODS, NORMS, check_known, unknown
from utils.config.variants import find_variant
from utils.errors import UserError
from utils.records.selection import ORACLE, setting_in_words

OTHERS = "*"  # datasets that an axis does not name

_OF_ADAB2N = ("kappa", "lambd", "ada_t0")  # what its study searches

_LONGEST_GROUP = 60  # characters of a name that is derived

Values = Mapping[str, tuple[Any, ...]]  # of an option, by dataset
Words = Mapping[str, Sequence[Any]]  # what stands after an option, by its name


@dataclass(frozen=True)
class Grid:
    """A product of runs.

    Attributes:
        seeds, datasets, models, methods: what rows, columns and repetitions of a table are; `methods` are norm layers
            or variants of one (`utils/config/variants.py`), as users of the AdaB2N launcher know them.
        axes: values of further options, by option and dataset; each run takes those that its parts use.
        searched: axes of whose values one is chosen, by name; each value of the others is a column of its own.
        selection: what the settings of a cell are judged on, `oracle` or `validation`.
        search_seeds: seeds on which all settings are run, the other seeds being left to the best; None: all of them.
        epochs_are_online: whether the axis `epochs` is for the online protocol alone, so that others take their own.
        fixed: further words of every run's command line.
        typed: what a command line changed, by name.
    """

    seeds: tuple[int, ...]
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    methods: tuple[str, ...]
    axes: Mapping[str, Values] = field(default_factory=dict)
    searched: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    selection: str = ORACLE
    search_seeds: tuple[int, ...] | None = None
    typed: frozenset[str] = frozenset()
    epochs_are_online: bool = False


# Lyu et al., NeurIPS 2023: what their launcher runs.
_ADAB2N_ONLINE = Grid(
    seeds=(0, 1, 2),
    datasets=("seq-cifar10", "seq-cifar100", "seq-miniimg"),
    models=("derpp", "er_ace"),
    methods=("BN", "LN", "IN", "GN", "CN", "AdaB2N"),
    axes={
        "epochs": {OTHERS: (1,)},
        "buffer_size": {"seq-cifar10": (500, 2000), OTHERS: (2000, 5000), "seq-digits": (200,)},
        "kappa": {OTHERS: (0.1, 0.4, 0.7, 1.0)},
        "lambd": {OTHERS: (0.01, 0.1, 1.0, 10.0), "seq-miniimg": (1e-5, 1e-4, 1e-3, 1e-2)},
        "ada_t0": {OTHERS: (0, 1)},
    },
    searched=_OF_ADAB2N,
)

# Cha et al., CVPR 2023: single runs.
_TBBN_LAYERS = Grid(
    seeds=(0,),
    datasets=("seq-cifar100", "seq-imagenet100"),
    models=("ft",),
    methods=("BN", "IN", "GN", "SN", "BRN", "CN", "CN*", "TBBN"),
    axes={"buffer_size": {OTHERS: (2000,), "seq-digits": (100,)}},
)

GRIDS: dict[str, Grid] = {
    "adab2n-online": _ADAB2N_ONLINE,
    "adab2n-50epochs": Grid(
        **{
            **vars(_ADAB2N_ONLINE),
            "axes": {**_ADAB2N_ONLINE.axes, "epochs": {OTHERS: (50,)}},
            "fixed": ("--batch_size", "32", "--minibatch_size", "32"),
        }
    ),
    "tbbn-layers": _TBBN_LAYERS,
    "tbbn-methods": Grid(
        **{
            **vars(_TBBN_LAYERS),
            "models": ("ft", "eeil", "lucir", "podnet", "ssil", "afc"),
            "methods": ("BN", "CN", "TBBN"),
        }
    ),
    # Their opening experiment, with every layer. Other widths than the published ones may need the adjusted groups.
    "bn-bias": Grid(
        **{
            **vars(_TBBN_LAYERS),
            "datasets": ("seq-cifar100",),
            "methods": ("BN", "LN", "IN", "GN", "SN", "BRN", "CN", "FRN", "DyT", "TBBN", "AdaB2N"),
            "searched": _OF_ADAB2N,
            "fixed": ("--retune_norms", "5", "--adjust_groups"),
        }
    ),
    # What LUCIR and PODNet report first, with the layers that any batch will do for; those that balance current against
    # memory rows need `--batching ratio`.
    **{
        f"{model}-b50": Grid(
            seeds=(0, 1, 2),
            datasets=("seq-cifar100",),
            models=(model,),
            methods=("BN", "GN", "CN"),
            fixed=("--preset", f"{model}-b50", "--adjust_groups"),
        )
        for model in ("lucir", "podnet")
    },
    # About two minutes on two cores, on the embedded digits. Chosen by BN alone (docs/grids.md).
    "demo": Grid(
        seeds=(0, 1),
        datasets=("seq-digits",),
        models=("er_ace", "er"),
        methods=("BN", "GN", "TBBN", "AdaB2N"),
        axes={"epochs": {OTHERS: (4,)}, "buffer_size": {OTHERS: (500,)}},
        searched=_OF_ADAB2N,
        fixed=("--preset", "demo"),
    ),
}
DEFAULT_GRID = "adab2n-online"


def find_grid(name: str) -> Grid:
    """The grid of that name. Raises UserError if it is unknown."""
    check_known("preset", [name], GRIDS)
    return GRIDS[name]


def change(grid: Grid, typed: Mapping[str, Any]) -> Grid:
    """The grid with what was typed, by attribute or, of an axis, by option; a typed axis holds on every dataset.

    Raises:
        UserError: an axis is left without a value.
    """
    for name, values in typed.items():
        if not values and name != "searched":
            raise UserError(f"--{name} has no value: there is nothing to run")
    attributes = {name: values for name, values in typed.items() if name in vars(grid)}
    axes = {name: {OTHERS: values} for name, values in typed.items() if name not in attributes}
    return Grid(**{**vars(grid), **attributes, "axes": {**grid.axes, **axes}, "typed": frozenset(typed)})


@dataclass(frozen=True)
class GridCell:
    """What all runs of a cell of the table share, as words of their command lines.

    Attributes:
        parts: method, dataset and norm layer.
        axes: one value of each compared axis.
        settings: the searched options of each setting; a single empty one where nothing is searched.
        fixed: what is the same in all runs of the grid that take it.
    """

    parts: tuple[str, ...]
    axes: tuple[str, ...]
    settings: tuple[tuple[str, ...], ...]
    fixed: tuple[str, ...]

    def words(self, setting: tuple[str, ...], seed: int, held_out: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The command line of a run after `utils/main.py`."""
        return (*self.parts, "--seed", str(seed), *self.axes, *setting, *self.fixed, *held_out)


class Expansion:
    """A grid and the typed options of its runs, expanded into cells.

    Args:
        grid: what to run.
        typed: further options of runs, by the name that was typed; several values make an axis.

    Attributes:
        used: names of options that some run takes.
        searched, compared: axes that have several values in some cell, by option.
        searchable: the options of `grid.searched` that have a value, by the name that was typed.
    """

    def __init__(self, grid: Grid, typed: Words) -> None:
        self._grid = grid
        self._typed = typed
        self.used: set[str] = set()
        self.searched: dict[str, None] = {}
        self.compared: dict[str, None] = {}
        self.searchable: dict[str, str] = {}

    def cells(self) -> Iterator[GridCell]:
        """Every cell, with the options that its parts use."""
        grid = self._grid
        for dataset, model, method in itertools.product(grid.datasets, grid.models, grid.methods):
            for parts in self._choices_of_parts():
                yield from self._cells_of(DATASETS.known_name(dataset), METHODS.known_name(model), method, parts)

    def _choices_of_parts(self) -> Iterator[dict[str, list[str]]]:
        """Every combination of the typed parts, such as backbones: other parts have other options."""
        names = [option.name for option in PART_OPTIONS if option.role == "part" and option.name in self._typed]
        self.compared |= {name: None for name in names if len(self._typed[name]) > 1}
        for chosen in itertools.product(*(self._typed[name] for name in names)):
            yield {name: [value] for name, value in zip(names, chosen, strict=True)}

    def _cells_of(self, dataset: str, model: str, method: str, parts: Words) -> Iterator[GridCell]:
        variant = find_variant(method)
        others = {name: parts[name][0] for name in ("backbone", "stream") if name in parts}
        accepted = accepted_options(model, dataset, variant.norm, **others)
        followers = _followers(self._typed, accepted)
        typed = {**self._taken(self._typed, accepted), **parts}
        preset = self._taken(dict(_named_words(self._grid.fixed)), accepted)
        axes = self._preset_axes(dataset, accepted)
        overruled = {*typed, *variant.words, *_ruled_out(typed, accepted), *itertools.chain(*followers.values())}
        overruled |= self._replaced(model, dataset, typed, {**preset, **axes})
        axes = {name: values for name, values in axes.items() if name not in overruled}
        axes |= {name: values for name, values in typed.items() if len(values) > 1 and not accepted[name].many}
        fixed = {name: words for name, words in preset.items() if name not in overruled}
        fixed |= {name: words for name, words in typed.items() if name not in axes}
        fixed |= {name: words for name, words in variant.words.items() if name in accepted}
        searched = self._note_axes(axes, accepted, {*axes, *typed, *preset})
        settings = tuple(_products({name: axes[name] for name in axes if name in searched}, followers))
        for chosen in _products({name: axes[name] for name in axes if name not in searched}, followers):
            yield GridCell(
                parts=("--model", model, "--dataset", dataset, "--nl", NORMS.known_name(variant.norm)),
                axes=chosen,
                settings=settings,
                fixed=tuple(word for name in fixed for word in _option_words(name, fixed[name], followers)),
            )

    def _taken(self, words: Words, accepted: Mapping[str, Option]) -> dict[str, Sequence[Any]]:
        """The options among these that a run takes, by their own names; notes them as used."""
        found: dict[str, Sequence[Any]] = {}
        for spelled, values in words.items():
            if spelled in accepted:
                option = accepted[spelled]
                name = _own_name(option)
                if len(values) > 1 and option.role not in ("part", "result") and not option.many:
                    raise UserError(f"--{spelled} takes one value: it does not change training, so it is no axis")
                if len(values) > 1 and option.meaning and not option.many:
                    raise UserError(f"--{spelled} takes one value: give --{option.stands_for[0]} several")
                if name in found:
                    raise UserError(f"--{spelled} is another name of an option that was given too: give it once")
                found[name] = tuple(dict.fromkeys(values))
                self.used.add(spelled)
        return found

    def _preset_axes(self, dataset: str, accepted: Mapping[str, Option]) -> dict[str, Sequence[Any]]:
        axes = {name: values.get(dataset, values.get(OTHERS, ())) for name, values in self._grid.axes.items()}
        return {name: values for name, values in axes.items() if values and name in accepted}

    def _replaced(self, model: str, dataset: str, typed: Words, preset: Words) -> set[str]:
        """Options of the preset in whose place come those of a published setting, taken whole, or of the protocol."""
        method, replaced = METHODS.get(model), set()
        if "load_best_args" in typed:
            protocol = _protocol(model, typed)
            buffers = [*typed.get("buffer_size", ()), *preset.get("buffer_size", ())] or [0]
            settings = [method.published_setting(dataset, int(buffer), protocol) for buffer in buffers]
            replaced = {name for setting in settings if setting is not None for name in setting.whole}
            replaced -= self._grid.typed
        if self._grid.epochs_are_online and _protocol(model, {**preset, **typed}) != "online":
            replaced.add("epochs")
        return replaced

    def _note_axes(self, axes: Words, accepted: Mapping[str, Option], with_value: set[str]) -> set[str]:
        """The names of those axes that are searched; notes them and the compared ones."""
        wanted = {name: _own_name(accepted[name]) for name in self._grid.searched if name in accepted}
        self.searchable |= {name: own for name, own in wanted.items() if own in with_value}
        self.used.update(axes)
        searched = axes.keys() & wanted.values()
        for name in axes:
            if len(axes[name]) > 1:
                (self.searched if name in searched else self.compared)[name] = None
        return searched


def _own_name(option: Option) -> str:
    """The option itself, or the first of those that it stands for with the same value, which the others follow."""
    return option.stands_for[0] if option.stands_for and option.meaning is None else option.name


def _followers(typed: Iterable[str], accepted: Mapping[str, Option]) -> dict[str, list[str]]:
    """Options of a run that take the value of another one, as a shorthand for both was typed, by that one's name."""
    found = [accepted[spelled] for spelled in typed if spelled in accepted]
    followers: dict[str, list[str]] = {}
    for option in found:
        if option.stands_for and option.meaning is None:
            for name in {other.name for other in found} & {*option.stands_for}:
                raise UserError(f"--{option.name} sets --{name} too: leave out one of them")
            followers[_own_name(option)] = [name for name in option.stands_for[1:] if name in accepted]
    return followers


def _ruled_out(typed: Iterable[str], accepted: Mapping[str, Option]) -> set[str]:
    """Options that cannot be given together with what was typed, which comes before a preset."""
    excluded = {other for name in typed for other in (*accepted[name].excludes, *accepted[name].stands_for)}
    return excluded | {option.name for option in accepted.values() if not set(option.excludes).isdisjoint(typed)}


def _protocol(model: str, typed: Words) -> str:
    """The protocol in force, by the typed options or the method's own."""
    return next(iter(typed.get("protocol", ())), METHODS.get(model).protocol)


def _products(axes: Words, followers: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """Every combination of the axes' values, in words."""
    for chosen in itertools.product(*axes.values()):
        pairs = zip(axes, chosen, strict=True)
        yield tuple(word for name, value in pairs for word in _option_words(name, [value], followers))


def _option_words(name: str, values: Sequence[Any], followers: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """An option with its values, and those that follow it with the same ones."""
    for each in (name, *followers.get(name, ())):
        yield from (f"--{each}", *map(str, values))


def setting_text(setting: Sequence[str]) -> str:
    """`--kappa 0.4 --lambd 1.0` as `kappa 0.4, lambd 1.0`."""
    pairs = zip(setting[::2], setting[1::2], strict=True)
    return setting_in_words({name.removeprefix("--"): value for name, value in pairs})


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
            raise UserError(f"unexpected argument {word!r}")
    return named


def read_extras(words: Sequence[str]) -> dict[str, list[str]]:
    """Options of the runs that are none of the launcher's, by the name that was typed; `--plugin` may be repeated."""
    extras: dict[str, list[str]] = {}
    for name, values in _named_words(words):
        if name in extras and name != "plugin":
            raise UserError(f"--{name} is given twice: give all its values at once, or one")
        extras[name] = [*extras[name], *values] if name in extras else values
    return extras


def default_group(preset: str, grid: Grid, typed: Words) -> str:
    """The group of a plan that names none: the preset's name, with what was typed that changes what a cell holds.

    Seeds, datasets, methods and norm layers add runs to a group and change none, so that more of them stay in it.

    Args:
        preset: its name.
        grid: what to run.
        typed: further options of runs, by the name that was typed.
    """
    shared = {spelling: option for option in SHARED_OPTIONS for spelling in option.spellings}
    asked: dict[str, Sequence[str]] = {}
    for name, values in typed.items():
        if name not in shared or shared[name].role not in ("runtime", "measurement"):
            asked[shared[name].name if name in shared else name] = values
    for name in grid.typed - {"seeds", "datasets", "models", "methods"}:
        values = grid.axes[name][OTHERS] if name in grid.axes else vars(grid)[name]
        option = "search" if name == "searched" else name
        asked[option] = [values] if isinstance(values, str) else list(map(str, values))
    words = [word for name, values in sorted(asked.items()) for word in (name, *sorted(values))]
    readable = "-".join((preset, *words))
    if len(readable) <= _LONGEST_GROUP and re.fullmatch(r"[A-Za-z0-9._-]+", readable):
        return readable
    return f"{preset}-{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]}"


def explain_unused(name: str, launcher_options: Iterable[str]) -> str:
    """Why no run of a plan takes an option: other parts would use it, or it is misspelled.

    Args:
        name: of the option, without dashes.
        launcher_options: the launcher's own names, which may have been meant.
    """
    if name in ABSENT:
        return f"there is no --{name} here: {ABSENT[name]}"
    users = spellings_of_parts()
    if name in users:
        return f"no run of this plan uses --{name}; it belongs to {', '.join(users[name])}"
    shared = (spelling for option in SHARED_OPTIONS for spelling in option.spellings)
    known = (f"--{spelling}" for spelling in (*launcher_options, *shared, *users))
    return unknown("option", f"--{name}", known, is_listed=False)
