"""From a grid to its cells: what the runs of each share, and the settings that are tried there, in words."""

import difflib
import hashlib
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from utils.config.command_line import options_of
from utils.config.configuration import accepted_options
from utils.config.options import ABSENT, PART_OPTIONS, SHARED_OPTIONS, Option
from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS
from utils.config.variants import VARIANTS, find_variant
from utils.errors import UserError
from utils.launch.grid import OTHERS, Grid
from utils.records.selection import setting_in_words

_LONGEST_GROUP = 60  # characters of a name that is derived


@dataclass(frozen=True)
class Cell:
    """Everything of a cell's runs but the seed, in words.

    Attributes:
        parts: method, dataset and norm layer.
        axes: one value of each compared axis.
        settings: the searched options of each setting; one that is empty where nothing is searched.
        further: what is the same for all runs of the grid.
    """

    parts: tuple[str, ...]
    axes: tuple[str, ...]
    settings: tuple[tuple[str, ...], ...]
    further: tuple[str, ...]

    def words(self, setting: tuple[str, ...], seed: int, held_out: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The command line of a run after `utils/main.py`."""
        return (*self.parts, "--seed", str(seed), *self.axes, *setting, *self.further, *held_out)


class Asked:
    """What was asked for: a grid and typed options, turned into cells.

    Args:
        grid: what to run.
        typed: further options of runs, by the name that was typed; several values make an axis.

    Attributes:
        used: names of what was asked that some run takes.
        searched, compared: axes that have several values in some cell, by option.
        wanted: the options that are to be searched and have a value, by the name that was typed.
    """

    def __init__(self, grid: Grid, typed: Mapping[str, Sequence[str]]) -> None:
        self._grid = grid
        self._typed = typed
        self.used: set[str] = set()
        self.searched: dict[str, None] = {}
        self.compared: dict[str, None] = {}
        self.wanted: dict[str, str] = {}

    def cells(self) -> Iterator[Cell]:
        """Every cell, with the options that its parts use."""
        grid = self._grid
        for dataset, model, method in itertools.product(grid.datasets, grid.models, grid.methods):
            for parts in self._choices_of_parts():
                yield from self._cells_of(DATASETS.canonical(dataset), METHODS.canonical(model), method, parts)

    def _choices_of_parts(self) -> Iterator[dict[str, list[str]]]:
        """Every combination of the typed parts, such as backbones: other parts have other options."""
        names = [option.name for option in PART_OPTIONS if option.role == "part" and option.name in self._typed]
        for name in names:
            if len(self._typed[name]) > 1:
                self.compared[name] = None
        for chosen in itertools.product(*(self._typed[name] for name in names)):
            yield {name: [value] for name, value in zip(names, chosen, strict=True)}

    def _cells_of(self, dataset: str, model: str, method: str, parts: Mapping[str, Sequence[str]]) -> Iterator[Cell]:
        variant = find_variant(method)
        accepted = accepted_options(model, dataset, variant.norm, next(iter(parts.get("backbone", ())), None))
        follow = _followers(self._typed, accepted)
        typed = {**self._of_run(self._typed, accepted), **parts}
        preset = self._of_run(dict(_named_words(self._grid.fixed)), accepted)
        preset_axes = {name: values for name, values in self._axes_of(dataset).items() if name in accepted}
        taken = {*typed, *variant.words, *_ruled_out(typed, accepted), *itertools.chain(*follow.values())}
        if "load_best_args" in typed:
            buffers = [*typed.get("buffer_size", ()), *preset_axes.get("buffer_size", ())]
            taken |= _stored(model, dataset, buffers, typed) - self._grid.typed
        if self._grid.epochs_are_online and _protocol(model, {**preset, **typed}) != "online":
            taken.add("epochs")
        axes: dict[str, Sequence[Any]] = {name: values for name, values in preset_axes.items() if name not in taken}
        axes |= {name: values for name, values in typed.items() if len(values) > 1 and not accepted[name].many}
        self.used.update(axes)
        fixed = {name: words for name, words in preset.items() if name not in taken}
        fixed |= {name: words for name, words in typed.items() if name not in axes}
        fixed |= {name: words for name, words in variant.words.items() if name in accepted}
        wanted = {name: _own_name(accepted[name]) for name in self._grid.searched if name in accepted}
        self.wanted |= {name: option for name, option in wanted.items() if option in {**axes, **typed, **preset}}
        searched = axes.keys() & wanted.values()
        for tally, names in ((self.searched, searched), (self.compared, axes.keys() - searched)):
            tally |= {name: None for name in axes if name in names and len(axes[name]) > 1}
        for chosen in _words({name: values for name, values in axes.items() if name not in searched}, follow):
            yield Cell(
                parts=("--model", model, "--dataset", dataset, "--nl", NORMS.canonical(variant.norm)),
                axes=chosen,
                settings=tuple(_words({name: axes[name] for name in axes if name in searched}, follow)),
                further=tuple(
                    word
                    for name, words in fixed.items()
                    for each in (name, *follow.get(name, ()))
                    for word in (f"--{each}", *words)
                ),
            )

    def _of_run(self, words: Mapping[str, Sequence[str]], accepted: Mapping[str, Option]) -> dict[str, Sequence[str]]:
        """Those options that a run takes, by their own names; notes which were used."""
        found: dict[str, Sequence[str]] = {}
        for spelled, values in words.items():
            if spelled in accepted:
                option = accepted[spelled]
                name = _own_name(option)
                if len(values) > 1 and option.role not in ("part", "result") and not option.many:
                    raise UserError(f"--{spelled} takes one value: it changes nothing that is trained, so is no axis")
                if len(values) > 1 and option.meaning and not option.many:
                    raise UserError(f"--{spelled} takes one value: give --{option.stands_for[0]} several")
                if name in found:
                    raise UserError(f"--{spelled} is another name of an option that was given too: give it once")
                found[name] = tuple(dict.fromkeys(values))
                self.used.add(spelled)
        return found

    def _axes_of(self, dataset: str) -> dict[str, tuple[Any, ...]]:
        axes = {name: values.get(dataset, values.get(OTHERS, ())) for name, values in self._grid.axes.items()}
        return {name: values for name, values in axes.items() if values}


def _own_name(option: Option) -> str:
    """The option itself, or the first of those that it stands for with the same value, which the others follow."""
    return option.stands_for[0] if option.stands_for and option.meaning is None else option.name


def _followers(typed: Iterable[str], accepted: Mapping[str, Option]) -> dict[str, list[str]]:
    """Options of a run that take the value of another one, as a shorthand for both was typed, by that one's name."""
    found = [accepted[spelled] for spelled in typed if spelled in accepted]
    follow: dict[str, list[str]] = {}
    for option in found:
        if option.stands_for and option.meaning is None:
            for name in {other.name for other in found} & {*option.stands_for}:
                raise UserError(f"--{option.name} gives --{name} its value too: leave out one of them")
            follow[_own_name(option)] = [name for name in option.stands_for[1:] if name in accepted]
    return follow


def _ruled_out(typed: Mapping[str, Any], accepted: Mapping[str, Option]) -> set[str]:
    """Options that cannot stand beside what was typed, which comes before a preset."""
    excluded = {other for name in typed for other in (*accepted[name].excludes, *accepted[name].stands_for)}
    return excluded | {option.name for option in accepted.values() if set(option.excludes) & typed.keys()}


def _stored(model: str, dataset: str, buffers: Sequence[Any], typed: Mapping[str, Sequence[str]]) -> set[str]:
    """The options of the published setting that `--load_best_args` takes whole, which come before a preset."""
    protocol = _protocol(model, typed)
    method = METHODS.get(model)
    settings = [method.published_setting(dataset, int(buffer), protocol) for buffer in buffers or (0,)]
    return {name for setting in settings if setting is not None for name in setting.whole}


def _protocol(model: str, typed: Mapping[str, Sequence[str]]) -> str:
    """The protocol in force, by the typed options or the method's own."""
    return next(iter(typed.get("protocol", ())), METHODS.get(model).protocol)


def _words(axes: Mapping[str, Sequence[Any]], follow: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """Every combination of the axes' values, in words; what follows an axis has its value."""
    for chosen in itertools.product(*axes.values()):
        pairs = (
            (each, value) for name, value in zip(axes, chosen, strict=True) for each in (name, *follow.get(name, ()))
        )
        yield tuple(word for name, value in pairs for word in (f"--{name}", str(value)))


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
            raise UserError(f"{word!r} belongs to no option")
    return named


def read_extras(words: Sequence[str]) -> dict[str, list[str]]:
    """Options of the runs that are none of the launcher's, by the name that was typed; `--plugin` may be repeated."""
    extras: dict[str, list[str]] = {}
    for name, values in _named_words(words):
        if name in extras and name != "plugin":
            raise UserError(f"--{name} is given twice: give all its values at once, or one")
        extras[name] = [*extras[name], *values] if name in extras else values
    return extras


def group_of(preset: str, grid: Grid, typed: Mapping[str, Sequence[str]]) -> str:
    """The group of a plan that names none: the preset's, with what was typed that changes what a cell holds.

    Seeds, datasets, methods and norm layers add runs to a group and change none, so that more of them stay in it.

    Args:
        preset: its name.
        grid: what to run.
        typed: further options of runs, by the name that was typed.
    """
    shared = {spelling: option for option in SHARED_OPTIONS for spelling in (option.name, *option.aliases)}
    asked: dict[str, Sequence[str]] = {}
    for name, values in typed.items():
        if name not in shared or shared[name].role not in ("place", "measurement"):
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
    """Why an option is not one of any run of a plan: other parts would use it, or it is misspelled.

    Args:
        name: of the option, without dashes.
        launcher_options: the launcher's own names, which may have been meant.
    """
    if name in ABSENT:
        return f"there is no --{name} here: {ABSENT[name]}"
    users: dict[str, list[str]] = defaultdict(list)
    for registry in (METHODS, DATASETS, NORMS, BACKBONES):
        for part_name in registry.names():
            part = registry.get(part_name)
            for option in options_of(part):
                for spelling in (option.name, *option.aliases):
                    users[spelling].append(f"{registry.kind} {part_name}")
    if name in users:
        return f"no run of this plan uses --{name}; it belongs to {', '.join(dict.fromkeys(users[name]))}"
    shared = (spelling for option in SHARED_OPTIONS for spelling in (option.name, *option.aliases))
    close = difflib.get_close_matches(name, dict.fromkeys([*launcher_options, *shared, *users]), n=1)
    return f"no run of this plan uses --{name}" + (f". Did you mean --{close[0]}?" if close else "; see --help")


def known_parts() -> dict[str, list[str]]:
    """The names that the axes take."""
    norms = [*NORMS.names(), *VARIANTS]
    return {"models": METHODS.names(), "datasets": DATASETS.names(), "methods": norms, "backbone": BACKBONES.names()}
