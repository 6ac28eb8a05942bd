"""The exact state of a run on disk: written whole or not at all, restored only where it fits."""

import contextlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError, is_disk_error, is_out_of_memory
from utils.records.record import write_atomically


class DamagedCheckpoint(UserError):
    """The file is not what was written."""


def save_checkpoint(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write a state of tensors and plain values, marked with the identity of its run.

    Raises:
        DiskError: the disk is full or cannot be written; an earlier checkpoint stays as it was.
    """
    _write(path, {"identity": identity, "state": state})


def save_model(path: Path, content: dict[str, Any]) -> None:
    """Write trained weights and what is needed to use them: tensors and plain values, which `load_model` reads.

    Raises:
        DiskError: the disk is full or cannot be written.
    """
    _write(path, content)


def load_model(path: Path) -> dict[str, Any]:
    """What `save_model` wrote, on the CPU. Nothing in the file can execute code.

    Raises:
        UserError: the file is not there, or damaged.
    """
    if not path.exists():
        raise UserError(f"there is no {path}: only a complete run has one, and none started with --keep_model 0")
    content = _read(path)
    if (
        not isinstance(content, dict)
        or not {"network", "label_of_class", "task_sizes", "image_size", "transform"} <= content.keys()
    ):
        raise UserError(f"{path} is damaged; --rerun starts the run over")
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    # In memory first: torch's archive writer turns a full disk into an error of its own.
    encoded = io.BytesIO()
    torch.save(content, encoded)
    write_atomically(path, lambda file: file.write(encoded.getbuffer()))


def load_checkpoint(path: Path, identity: str, device: torch.device) -> dict[str, Any] | None:
    """The state of that run, None if there is no checkpoint. Nothing in the file can execute code.

    Raises:
        DamagedCheckpoint: the file is damaged.
        UserError: it belongs to another configuration.
        OSError: the disk cannot be read.
    """
    if not path.exists():
        return None
    content = _read(path)
    if not isinstance(content, dict) or not {"identity", "state"} <= content.keys():
        raise DamagedCheckpoint(f"{path} is damaged, so that the run starts over")
    if content["identity"] != identity:
        raise UserError(f"{path} belongs to another configuration; remove it to train this run from the beginning")
    if device.type != "cpu":
        content = torch.load(path, map_location=device, weights_only=True)
    return content["state"]


def _read(path: Path) -> Any:
    """What the file holds, on the CPU, so that no failure of a device is taken for damage; None if it is damaged."""
    try:
        # torch.load trusts the bytes of its tensors; the archive's own checksums do not.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        return None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive can fail in any way
        if is_out_of_memory(error) or is_disk_error(error):
            raise
        return None


@contextlib.contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Context in which a saved state is restored.

    Raises:
        UserError: the state lacks something, as it is of another version of the suite.
    """
    try:
        yield
    except (KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "in loading state_dict" not in str(error):
            raise  # such as out of memory
        raise UserError(
            f"{path} was written by another version of the suite; resume with that one, or remove it to train this "
            "run from the beginning"
        ) from error
