"""The checkpoints of one run: the newest few, to go on from, and the policies that tested best."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from checkpoints import checkpoint as format
from checkpoints.checkpoint import Checkpoint, CheckpointError

BEST = "best-"

log = logging.getLogger("marl.checkpoints")


class CheckpointStore:
    """Keeps a run's checkpoints in ``folder``: ``<step>`` to go on from, ``best-<step>`` the policy alone.

    Each checkpoint to go on from remembers the best policy of its time, which stays as long as it does: a run
    that goes back to it has its best policy again.

    Args:
        folder: the run directory's folder for them; made when the first one is saved.
        keep: how many to go on from are kept.
    """

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self.folder = folder
        self.keep = keep
        self.best: Checkpoint | None = None
        self.current: int | None = None  # step of the last one saved, or gone on from

    def save(
        self,
        step: int,
        save_policy: Callable[[str], None],
        states: Mapping[str, Any],
        notes: dict[str, Any],
    ) -> Checkpoint:
        """Save a checkpoint to go on from, then remove those that are no longer wanted.

        Raises:
            CheckpointError: it could not be written; all earlier ones are still there.
        """
        notes = {**notes, "best": None if self.best is None else self.best.path.name}
        saved = format.write(self.folder / str(step), step, save_policy, states, notes)
        self.current = step
        self._remove_unwanted(step)
        return saved

    def save_best(self, step: int, save_policy: Callable[[str], None], notes: dict[str, Any]) -> None:
        """Save the policy that tested best so far.

        Raises:
            CheckpointError: it could not be written; all earlier ones are still there.
        """
        self.best = format.write(self.folder / f"{BEST}{step}", step, save_policy, {}, notes)
        self._remove_unwanted(step)

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Make the best policy that ``checkpoint`` remembers the best one."""
        self.current = checkpoint.step
        name = checkpoint.notes["best"]
        if name is not None:
            try:
                self.best = format.read(self.folder / name)
                self.best.verify()
            except CheckpointError as error:
                log.warning("The best policy so far is lost: %s", error)
                self.best = None

    def newest(self) -> Checkpoint | None:
        """Return the newest undamaged checkpoint to go on from, None if none was ever saved.

        Raises:
            CheckpointError: all are damaged.
        """
        reasons = []
        for step in sorted(self.steps(), reverse=True):
            try:
                found = format.read(self.folder / str(step))
                found.verify()
            except CheckpointError as error:
                log.warning("%s: an earlier checkpoint is looked for", error)
                reasons.append(str(error))
            else:
                return found
        if reasons:
            raise CheckpointError(f"There is no undamaged checkpoint left: {'; '.join(reasons)}.")
        return None

    def find(self, which: str) -> Checkpoint:
        """Return the checkpoint ``which``: "best", "last" or a step, its policy known to be undamaged.

        Raises:
            CheckpointError: there is no such checkpoint, or it is damaged.
        """
        steps, bests = sorted(self.steps()), sorted(self._best_steps())
        names = {str(step): f"{BEST}{step}" for step in bests} | {str(step): str(step) for step in steps}
        if steps:
            names["last"] = str(steps[-1])
        if bests:
            names["best"] = f"{BEST}{bests[-1]}"
        if which not in names:
            raise CheckpointError(
                f"{self.folder} holds no checkpoint {which!r}; there are: {', '.join(names) or 'none'}."
            )
        found = format.read(self.folder / names[which])
        found.verify(policy_only=True)
        return found

    def steps(self) -> Iterator[int]:
        """The steps of the checkpoints to go on from."""
        return (int(path.name) for path in self._entries() if path.name.isdigit())

    def _best_steps(self) -> Iterator[int]:
        names = (path.name.removeprefix(BEST) for path in self._entries() if path.name.startswith(BEST))
        return (int(name) for name in names if name.isdigit())

    def _entries(self) -> Iterator[Path]:
        return self.folder.iterdir() if self.folder.is_dir() else iter(())

    def _remove_unwanted(self, step: int) -> None:
        """Remove what lies behind ``step``, from before the run went back, and what is too old."""
        known = sorted(self.steps())
        kept = {str(known_step) for known_step in [s for s in known if s <= step][-self.keep :]}
        if self.best is not None:
            kept.add(self.best.path.name)
        for name in list(kept):
            if not name.startswith(BEST):
                kept |= self._remembered(name)
        for path in list(self._entries()):
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def _remembered(self, name: str) -> set[str]:
        try:
            best = format.read(self.folder / name).notes["best"]
        except CheckpointError:
            return set()
        return set() if best is None else {best}
