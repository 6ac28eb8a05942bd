"""The suite's parts by name, and plug-in files that add to them.

A method, backbone, dataset or stream is named after its file (`datasets/seq_cifar10.py` is `seq-cifar10`), a norm layer
after its class (`AdaB2N`), unless it is registered under another name.
"""

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backbone.norm.errors import NormError
from backbone.norm.registry import NORMS, Registry, find_name, unknown
from utils.errors import UserError

__all__ = [
    "BACKBONES",
    "DATASETS",
    "METHODS",
    "NORMS",
    "ROOT",
    "STREAMS",
    "as_user_errors",
    "check_known",
    "find_name",
    "known_names",
    "load_plugins",
    "unknown",
]

ROOT = Path(__file__).resolve().parents[2]


_BASES = {
    "method": "models.base.Method",
    "dataset": "datasets.arrays.Dataset",
    "stream": "datasets.arrangement.Arrangement",
}


def _registry(kind: str, package: str) -> Registry:
    has_dashes = kind in ("dataset", "stream")
    spell = (lambda file, part: file.replace("_", "-")) if has_dashes else (lambda file, part: file)
    check = _check_backbone if kind == "backbone" else lambda part: _check_derived(part, kind)
    return Registry(kind, package, ROOT / package.replace(".", "/"), spell, check, error=UserError)


def _check_derived(part: Any, kind: str) -> None:
    """Raise UserError for a part that is not derived from the base of its kind, or leaves out what that needs."""
    if not isinstance(part, type) or not hasattr(part, "undefined"):
        raise UserError(f"{part.__name__}: a {kind} is a class derived from {_BASES[kind]}")
    if missing := part.undefined():
        raise UserError(f"class {part.__name__} does not define `{missing[0]}`, which a {kind} needs")


def _check_backbone(part: Any) -> None:
    """Raise UserError for a part that cannot be made as a backbone is; it may be any `nn.Module` otherwise."""
    if not isinstance(part, type) or not hasattr(part, "options"):
        raise UserError(f"{part.__name__}: a backbone is a class that defines `options`, such as `options = ()`")
    options = dict.fromkeys(option.name for option in part.options)
    try:
        inspect.signature(part).bind(None, image_size=32, **options)
    except TypeError as error:
        called = ", ".join(["norm", "*", "image_size", *options])
        raise UserError(f"class {part.__name__}: {error}; a backbone is made by Backbone({called})") from None


BACKBONES = _registry("backbone", "backbone")
METHODS = _registry("method", "models")
DATASETS = _registry("dataset", "datasets")
STREAMS = _registry("stream", "datasets.streams")


def check_known(kind: str, asked: Iterable[str], known: Iterable[str]) -> None:
    """Check what a user has named; `kind` says in the message what that is. Raises UserError, with a suggestion."""
    names = list(known)
    for name in asked:
        if name not in names:
            raise UserError(unknown(kind, name, names))


def known_names(kind: str, asked: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """As `check_known`, but a name may be spelled in any way that a registry takes; gives the one that is known."""
    names = list(known)
    found = tuple(find_name(name, names) or name for name in asked)
    check_known(kind, found, names)
    return found


@contextmanager
def as_user_errors() -> Iterator[None]:
    """Decorator or context that turns the errors of norm layers, which know nothing of the suite, into UserError.

    The layers' options are named as they are typed, `--num_groups` for `num_groups`.
    """
    try:
        yield
    except NormError as error:
        names = {option.name for name in NORMS.names() for option in NORMS.get(name).options}
        pattern = rf"(?<![\w-])({'|'.join(sorted(names, key=len, reverse=True))})(?!\w)"
        raise UserError(re.sub(pattern, r"--\1", str(error))) from error


def load_plugins(paths: Iterable[str] | None) -> None:
    """Import files of a user, each of which registers its parts by decorator; None are none.

    Raises:
        UserError: a file is missing or fails to import.
    """
    for path in paths or ():
        _load_plugin(path)


def _load_plugin(path: str) -> None:
    """Import a user's file, which registers its parts by decorator.

    Raises:
        UserError: the file is missing or fails to import.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"--plugin {path}: there is no such file")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    module_name = f"plugin_{file.stem}_{digest[:8]}.{file.stem}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, file)
        if spec is None or spec.loader is None:
            raise UserError(f"--plugin {path}: give a Python file, whose name ends in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # a plug-in is no program, and has not done the run's work
            del sys.modules[module_name]
            if isinstance(error, UserError):
                raise
            kind = "" if isinstance(error, NormError) else f"{type(error).__name__}: "
            raise UserError(f"--plugin {path}: {kind}{error}") from error
