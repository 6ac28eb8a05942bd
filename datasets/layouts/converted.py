"""Data in files that must be decoded, converted once into four arrays that all runs of a machine map and so share.

The arrays lie in `converted/` in the dataset's folder, or in the user's cache folder where that cannot be written to or
is too small. Their own folder is named by a digest of the files that they were made of: where one has changed, they are
made again. It is written aside under a lock and renamed, so that it is complete if it is there.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np

from datasets._digests import digest_of_states
from datasets.arrays import NON_SQUARE, Content, Dataset, Layout, content_of
from datasets.layouts.decoding import locked
from datasets.layouts.four_arrays import NAMES, read_array

_FACTS = "facts.json"
_SPARE = 0.05  # of the arrays' size, which is left free on a disk


def read_shared(layout: Layout, path: Path, dataset: Dataset, data_root: Path) -> Content:
    """What a layout reads, mapped from four arrays; where these have no place, in the memory of this process.

    Args:
        layout, path: what was found, and where.
        dataset: as for `Layout.read`.
        data_root: the folder that holds the datasets' folders.

    Raises:
        UserError: as `Layout.read`.
    """
    files = layout.sources(path, dataset)
    if not files:
        return layout.read(path, dataset)
    settings = (dataset.side, dataset.settings.get(NON_SQUARE.name))
    name = f"{dataset.name}-{digest_of_states(files, data_root, settings)[:16]}"
    folders = _folders(dataset, data_root)
    for folder in folders:
        if (folder / name).is_dir():
            return _mapped(folder / name, data_root)
    for folder in filter(_is_writable, folders):
        with locked(folder, dataset.name):
            if (folder / name).is_dir() or _convert(layout, path, dataset, data_root, folder / name):
                return _mapped(folder / name, data_root)
    content = layout.read(path, dataset)
    note = f"there is no room to convert {dataset.name} to arrays that runs share, so each holds its own images"
    return content._replace(conversions=(*content.conversions, note))


def _folders(dataset: Dataset, data_root: Path) -> list[Path]:
    """Where arrays may lie: beside the data, or else in a cache folder of this account, if it has a home."""
    beside = data_root / dataset.folder / "converted"
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return [beside]
    return [beside, home / "continual-norms" / digest_of_states((), data_root, str(data_root.resolve()))[:16]]


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _convert(layout: Layout, path: Path, dataset: Dataset, data_root: Path, target: Path) -> bool:
    """Write the arrays of a layout into a new folder in place of those of earlier files; whether the disk has room."""
    content = layout.read(path, dataset)
    needed, free = sum(array.nbytes for array in content[:4]), shutil.disk_usage(target.parent).free
    if (1 + _SPARE) * needed > free:
        return False
    print(
        f"{dataset.name}: converting {len(content.train_x) + len(content.test_x)} images once into {target} "
        f"({needed / 1e9:.2f} GB of {free / 1e9:.1f} GB free)",
        file=sys.stderr,
        flush=True,
    )
    for former in target.parent.glob(f"{dataset.name}-*"):
        shutil.rmtree(former, ignore_errors=True)
    aside = target.with_name(f"{target.name}.part")
    try:
        aside.mkdir()
        for name, array in zip(NAMES, content[:4], strict=True):
            np.save(aside / f"{name}.npy", array)
        origin = {name: os.path.relpath(file, data_root) for name, file in content.origin.items()}
        facts = {"origin": origin, "conversions": content.conversions}
        (aside / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
        aside.rename(target)
    except OSError:  # the disk has filled since
        shutil.rmtree(aside, ignore_errors=True)
        return False
    return True


def _mapped(folder: Path, data_root: Path) -> Content:
    """Arrays that were converted; their origin is the files that they were made of."""
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    origin = {name: str(data_root / file) for name, file in facts["origin"].items()}
    return content_of([read_array(folder / f"{name}.npy") for name in NAMES], origin, tuple(facts["conversions"]))
