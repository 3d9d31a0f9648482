"""One checkpoint: a folder of files that appears as a whole or not at all.

    policy/         what the controller's ``save_models`` writes: all that acting needs
    <part>.pt       the state of a part of the run; a checkpoint of the policy alone has none
    manifest.json   version, environment step, notes, size and SHA-256 of every file, SHA-256 of the rest

Files are written under a temporary name, flushed to the disk and renamed together. Tensors are loaded with
torch's ``weights_only``, which executes no code.
"""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VERSION = 1
MANIFEST = "manifest.json"
POLICY = "policy"


class CheckpointError(Exception):
    """A checkpoint that can't be written or read; its text is one sentence for the user."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk, of which the manifest is known to be whole.

    Attributes:
        path: its folder.
        step: environment steps taken when it was made.
        notes: what its writer added, as JSON has it.
        files: size and SHA-256 of each file, by its path in the folder.
    """

    path: Path
    step: int
    notes: dict[str, Any]
    files: dict[str, dict[str, Any]]

    @property
    def policy(self) -> Path:
        """The folder for the controller's ``load_models``."""
        return self.path / POLICY

    @property
    def is_complete(self) -> bool:
        """Whether a run can go on from it; otherwise it holds a policy alone."""
        return any(name.endswith(".pt") for name in self.files)

    def verify(self, policy_only: bool = False) -> None:
        """Read every file, or those of the policy, and compare with the manifest.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        for name, expected in self.files.items():
            if policy_only and not name.startswith(f"{POLICY}/"):
                continue
            try:
                found = _fingerprint(self.path / name)
            except OSError as error:
                raise CheckpointError(f"{self.path / name} can't be read ({error.strerror})") from error
            if found != expected:
                raise CheckpointError(f"{self.path / name} is damaged")

    def load(self, part: str) -> Any:
        """Return the state of a part, on the CPU.

        Raises:
            CheckpointError: it has none, or it can't be read.
        """
        path = self.path / f"{part}.pt"
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{path} can't be read ({str(error).splitlines()[0]})") from error


def read(path: Path) -> Checkpoint:
    """Return the checkpoint in the folder ``path``, as its manifest describes it.

    Raises:
        CheckpointError: there is no manifest, it is damaged, or a later version wrote it.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        digest = manifest.pop("digest")
        if digest != _digest(manifest):
            raise ValueError("digest")
        if manifest["version"] > VERSION:
            raise CheckpointError(f"{path} was written by a later version of this program")
        return Checkpoint(path, manifest["step"], manifest["notes"], manifest["files"])
    except OSError as error:
        raise CheckpointError(f"{path / MANIFEST} can't be read ({error.strerror})") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged") from error


def write(
    path: Path,
    step: int,
    save_policy: Callable[[str], None],
    states: Mapping[str, Any],
    notes: dict[str, Any],
) -> Checkpoint:
    """Write a checkpoint that appears as the folder ``path`` once all of it is on the disk.

    Args:
        path: where; a checkpoint that is there already is replaced.
        step: environment steps taken.
        save_policy: writes the files of the policy into the folder it is given.
        states: nested dictionaries, lists and tuples of tensors, numbers and texts, by part.
        notes: anything JSON can hold.

    Raises:
        CheckpointError: the disk is full, or can't be written to. Nothing has changed then.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / POLICY).mkdir(parents=True)  # and the folder of all checkpoints, before the first one
        save_policy(str(temporary / POLICY))
        for part, state in states.items():
            torch.save(_exact(state), temporary / f"{part}.pt")
        names = sorted(str(file.relative_to(temporary)) for file in temporary.rglob("*") if file.is_file())
        files = {name: _fingerprint(temporary / name, flush=True) for name in names}
        manifest = {"version": VERSION, "step": step, "notes": notes, "files": files}
        text = json.dumps({**manifest, "digest": _digest(manifest)}, indent=1)
        (temporary / MANIFEST).write_text(text)
        for entry in (temporary / MANIFEST, temporary / POLICY, temporary):
            _flush(entry)
        _put_in_place(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):  # a GPU's, not the disk's
            raise
        reason = getattr(error, "strerror", None) or "torch could not write it all: is the disk full?"
        raise CheckpointError(f"{path} can't be written ({reason})") from error
    return Checkpoint(path, step, notes, files)


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename; a folder can't be renamed over another one that has content."""
    old = path.with_name(f".{path.name}.old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(path, old)
    os.rename(temporary, path)
    _flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    """Make a file, or a folder's list of names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fingerprint(path: Path, flush: bool = False) -> dict[str, Any]:
    with path.open("rb") as file:
        if flush:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _exact(state: Any) -> Any:
    """Return ``state`` with tensors that own just what they show: of a view, torch would write all that lies
    under it."""
    if isinstance(state, Tensor):
        state = state.detach().cpu()
        if state.untyped_storage().nbytes() == state.nbytes:
            return state
        if state.dtype is torch.bfloat16:  # which numpy doesn't know
            return _exact(state.contiguous().view(torch.int16)).view(torch.bfloat16)
        return torch.from_numpy(state.contiguous().numpy())  # shares the memory, but not what lies around
    if isinstance(state, Mapping):
        return {key: _exact(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        items = [_exact(value) for value in state]
        return items if isinstance(state, list) else tuple(items)
    return state
