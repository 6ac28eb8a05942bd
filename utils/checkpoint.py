"""The exact state of a run on disk: written whole or not at all, restored only where it fits."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError
from utils.record import write_atomically


def save_checkpoint(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write a state of tensors and plain values, marked with the identity of its run.

    Raises:
        DiskError: the disk is full or cannot be written; an earlier checkpoint stays as it was.
    """
    # In memory first: torch's archive writer turns a full disk into an error of its own.
    content = io.BytesIO()
    torch.save({"identity": identity, "state": state}, content)
    write_atomically(path, lambda file: file.write(content.getbuffer()))


def load_checkpoint(path: Path, identity: str, device: torch.device) -> dict[str, Any] | None:
    """The state of that run, None if there is no checkpoint. Nothing in the file can execute code.

    Raises:
        UserError: the file is damaged, or belongs to another configuration.
    """
    if not path.exists():
        return None
    try:
        # torch.load trusts the bytes of its tensors; the archive's own checksums do not.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        content = None if damaged else torch.load(path, map_location=device, weights_only=True)
    except MemoryError:
        raise
    except Exception:  # a damaged archive can fail in any way
        content = None
    if not isinstance(content, dict) or not {"identity", "state"} <= content.keys():
        raise UserError(f"{path} is damaged; remove it to train this run from the beginning")
    if content["identity"] != identity:
        raise UserError(f"{path} belongs to another configuration; remove it to train this run from the beginning")
    return content["state"]
