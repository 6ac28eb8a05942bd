"""The code of a run that differs from the released one: plug-ins, added parts and edited parts.

A part's code is the file it is written in, identified by a digest of its syntax tree: comments, blank lines and
docstrings change nothing. `released.json` beside this file holds the digests of the suite's own parts; after a change
to one of them, update it with

    python -m utils.config.code

and raise `RESULTS_VERSION` (`utils/config/configuration.py`) if the change affects any number.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS, ROOT, STREAMS

RELEASED_PATH = Path(__file__).with_name("released.json")
# Fields of a syntax tree that say nothing of what the code does, or that not every version of Python has.
_SILENT_FIELDS = {"kind", "type_comment", "type_ignores", "type_params"}


def code_digest(source: str) -> str:
    """SHA-256 of what a file's text does, the same in every version of Python.

    Raises:
        SyntaxError: the text is no Python.
    """
    return hashlib.sha256(repr(_plain(ast.parse(source))).encode()).hexdigest()


def _plain(node: Any) -> Any:
    """A syntax tree as nested tuples, without docstrings and empty fields."""
    if isinstance(node, list):
        return tuple(map(_plain, node))
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if name not in _SILENT_FIELDS}
    if isinstance(node, ast.JoinedStr):  # whose texts some versions cut in pieces
        fields["values"] = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
    if _has_docstring(node):
        fields["body"] = fields["body"][1:]
    filled = ((name, _plain(value)) for name, value in fields.items() if value not in (None, []))
    return type(node).__name__, tuple(filled)


def _has_docstring(node: ast.AST) -> bool:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None


def unreleased_code(parts: Iterable[type]) -> tuple[str, ...]:
    """Digests of the files of those parts whose code is not as released, each once, in rising order."""
    files = {Path(path) for part in parts if (path := getattr(sys.modules[part.__module__], "__file__", None))}
    digests = {path: _digest_of(path, path.stat().st_mtime_ns) for path in files}
    return tuple(sorted({digest for path, digest in digests.items() if _released().get(_name_of(path)) != digest}))


@lru_cache
def _digest_of(path: Path, changed: int) -> str:
    """The digest of a file, read once per modification time, as a plan asks for it for every run."""
    return code_digest(path.read_text(encoding="utf-8"))


@lru_cache
def _released() -> dict[str, str]:
    return json.loads(RELEASED_PATH.read_text(encoding="utf-8"))


def _name_of(path: Path) -> str:
    """The path inside the repository; for a file elsewhere, which is never released, the whole path."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def current_digests() -> dict[str, str]:
    """What `released.json` holds if all parts are as released, by the path inside the repository."""
    registries = (BACKBONES, DATASETS, METHODS, NORMS, STREAMS)
    parts = [registry.get(name) for registry in registries for name in registry.names()]
    files = [sys.modules[part.__module__].__file__ for part in parts]
    packages = [ROOT / name for name in ("backbone", "datasets", "models")]  # plug-ins may be registered too
    paths = sorted({Path(file) for file in files if file and any(map(Path(file).is_relative_to, packages))})
    return {_name_of(path): code_digest(path.read_text(encoding="utf-8")) for path in paths}


if __name__ == "__main__":
    RELEASED_PATH.write_text(json.dumps(current_digests(), indent=1) + "\n", encoding="utf-8")
