"""Checkpoints of a training state: written by orbax while the training goes on, checked when read.

Each array is saved under its path in the state, such as `params.hidden.weight`, with its type and its
fingerprint. So a state of another model is an error that names the array, and an array that changed on
the disk is noticed.
"""

import json
import logging
import shutil
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from leaves import difference, fingerprints, named, type_of, with_content

State = TypeVar("State")
NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


class CheckpointError(Exception):
    """A checkpoint cannot be read, does not fit the state, or could not be written."""


class Checkpoints:
    """The checkpoints of one run, in one folder.

    Args:
        directory: The folder. It is made if it is not there.
        every: How many steps lie between two checkpoints.
        settings: Options of the run, as JSON can hold them. A run is resumed with the same ones only.
        keep: How many checkpoints stay. An older one is removed when a newer one is complete.
        patience: How many seconds a process waits for the others to have written theirs.
    """

    def __init__(
        self,
        directory: Path,
        every: int,
        settings: Mapping[str, Any] = NO_SETTINGS,
        keep: int = 3,
        patience: int = 300,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.every = every
        self.settings = json.loads(json.dumps(dict(settings)))
        self.failed: str | None = None  # why the latest save failed
        self._alone = False  # the others wait for this process, which will not write any more
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # `report` says what orbax logs
        for partial in sorted(self.directory.glob("*.orbax-checkpoint-tmp")):
            report(f"the checkpoint of step {partial.stem} was not completed, and is removed")
        self.directory.mkdir(parents=True, exist_ok=True)
        # Named processes wait for each other through the coordinator of `jax.distributed`. Otherwise
        # orbax has the devices wait for each other, which on CPUs was seen to hang.
        together = ocp.options.MultiprocessingOptions(
            active_processes={*range(jax.process_count())} if jax.process_count() > 1 else None
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            create=False,
            multiprocessing_options=together,
            async_options=ocp.options.AsyncOptions(timeout_secs=patience),
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._writing: int | None = None  # the step that is being saved

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except CheckpointError as error:
            if kind is None:
                raise
            report(str(error))  # what ended the run is raised

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be saved after so many steps."""
        return step % self.every == 0

    def restore_or(self, state: State) -> tuple[State, int]:
        """The newest checkpoint that can be read, and its number of steps; if none is there, `state`, 0.

        Checkpoints that cannot be read are reported and set aside, so that they can be examined.

        Args:
            state: A pytree of arrays with the structure, shapes, dtypes and shardings to restore.

        Raises:
            CheckpointError: If an array's type or an option differs from what was saved, or if there
                are checkpoints and none can be read.
        """
        skipped: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored, reason = self._read(step, state)
            if reason is None:
                self._set_aside(skipped, step)
                return restored, step
            skipped[step] = reason
        if skipped:
            reasons = "".join(f"\n- step {step}: {reason}" for step, reason in skipped.items())
            raise CheckpointError(
                f"None of the checkpoints in {self.directory} can be read:{reasons}\n"
                "To start anew, name another folder, or move this one away."
            )
        return state, 0

    def save(self, step: int, state: Any) -> None:
        """Begin to write the state after `step` steps. When this returns, `state` may be donated.

        A save that fails, as on a full disk, is reported, and training goes on: older checkpoints stay.
        Of several processes all end where a save fails in one: the others have waited in vain for it.

        Raises:
            CheckpointError: If a save failed and there is no older checkpoint, or this is one of several
                processes.
        """
        self._wait()
        leaves = named(state)
        record = {
            "settings": self.settings,
            "types": {name: type_of(leaf) for name, leaf in leaves.items()},
            "fingerprints": fingerprints(with_content(leaves)),
        }
        self._writing = step
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(with_content(leaves)),
            record=ocp.args.JsonSave({"crc32": checksum(record), "record": record}),
        )
        try:
            self._manager.save(step, args=arguments, force=True)
        except Exception as error:  # of the disk: orbax has many types for it
            self._give_up(step, error)

    def close(self) -> None:
        """Wait until everything is written.

        Raises:
            CheckpointError: If the latest save failed.
        """
        try:
            self._wait()
        finally:
            if not self._alone:
                self._manager.close()
        if self.failed:
            raise CheckpointError(f"The last checkpoint is missing: {self.failed}")

    def _wait(self) -> None:
        """Wait for the save that is going on, and report whether it failed."""
        step, self._writing = self._writing, None
        if step is None:
            return
        try:
            self._manager.wait_until_finished()
            self.failed = None
        except Exception as error:
            self._give_up(step, error)

    def _give_up(self, step: int, error: Exception) -> None:
        """Report a failed save, and give back the space of what it wrote."""
        self._writing = None
        self.failed = f"step {step} could not be saved ({in_short(first_of(error))})"
        if jax.process_count() > 1:
            self._alone = True
            raise CheckpointError(
                f"{self.failed} by process {jax.process_index()} of {jax.process_count()}. Older "
                "checkpoints stay. All processes end with it."
            ) from error
        remove(self.directory / f"{step}.orbax-checkpoint-tmp")
        self._manager.reload()  # what it meant to remove for this save stays
        newest = self._manager.latest_step()
        if newest is None:
            raise CheckpointError(f"{self.failed}, and no other checkpoint is there") from error
        report(f"{self.failed}; the checkpoint of step {newest} stays")

    def _read(self, step: int, state: State) -> tuple[State, None] | tuple[None, str]:
        """The state of a step, or why it cannot be read."""
        leaves = named(state)
        file, reason = self._restore(step, record=ocp.args.JsonRestore())
        if reason is not None:
            return None, reason
        record = file.get("record")
        if checksum(record) != file.get("crc32"):
            return None, "its record is not what was saved: its checksum differs"
        types = {name: type_of(leaf) for name, leaf in leaves.items()}
        wrong = difference("array", record["types"], types)
        wrong = wrong or difference("option", record["settings"], self.settings)
        if wrong is not None:
            raise CheckpointError(
                f"The checkpoint of step {step} in {self.directory} is of another run: {wrong}.\n"
                "Resume with the options of that run, or name another folder to start anew."
            )
        shapes = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in with_content(leaves).items()
        }
        saved, reason = self._restore(step, state=ocp.args.StandardRestore(shapes))
        if reason is not None:
            return None, reason
        marks = fingerprints(saved)
        for name, mark in record["fingerprints"].items():
            if marks[name] != mark:
                return None, f"the array `{name}` is not what was saved: its fingerprint differs"
        return jax.tree.structure(state).unflatten((leaves | saved).values()), None

    def _restore(self, step: int, **item: Any) -> tuple[Any, None] | tuple[None, str]:
        """An item of a checkpoint, or why it cannot be read, in which all processes agree."""
        (name,) = item
        try:
            asked = ocp.args.Composite(**item)
            found, reason = self._manager.restore(step, args=asked)[name], None
        except Exception as error:  # whatever a damaged file makes of JSON and TensorStore
            found, reason = None, in_short(error)
        if jax.process_count() > 1:
            failed = multihost_utils.process_allgather(np.array(reason is not None))
            if np.any(failed) and reason is None:
                found, reason = None, f"process {int(np.argmax(failed))} cannot read it"
        return found, reason

    def _set_aside(self, skipped: Mapping[int, str], used: int) -> None:
        """Rename checkpoints that cannot be read, since their steps will be saved again."""
        for step, reason in skipped.items():
            aside = self.directory / f"unreadable_{step}"
            report(
                f"skipped the checkpoint of step {step} ({reason}) and renamed it {aside.name}; "
                f"step {used} is used"
            )
            if jax.process_index() == 0:
                shutil.rmtree(aside, ignore_errors=True)
                (self.directory / str(step)).rename(aside)
        if skipped:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("checkpoints set aside")
            self._manager.reload()


def checksum(record: Any) -> int:
    """A checksum of what JSON can hold."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def remove(folder: Path) -> None:
    """Remove a folder into which orbax's threads may still write, once one of them has failed."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
        if not folder.exists():
            return


def first_of(error: BaseException) -> BaseException:
    """The error that came first: orbax waits for the other processes even then, until that fails too."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def in_short(error: BaseException) -> str:
    """The type and the first line of an error, up to 200 characters."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def report(message: str) -> None:
    """Say what happened to a checkpoint, once for all processes, on the standard error."""
    if jax.process_index() == 0:
        print(f"checkpoints: {message}", file=sys.stderr, flush=True)
