"""What happens at the end of steps and epochs: validating, saving, resuming, stopping, logging."""

import csv
import io
import pathlib
import re
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
import tqdm

from a2net_tf import disk, safe_files
from a2net_tf.errors import UserError, reason_of
from a2net_tf.training import run_directory
from a2net_tf.training.run_directory import Run

_KEPT_STATES = 2


class EpochEnd(keras.callbacks.Callback):
    """Validates and writes weights for use; ``SaveState``, the last callback, then marks the epoch as finished.

    A kill at any point loses at most the epoch that is not finished.

    Args:
        run: whose directory is written.
        validate: network -> mAP, or None without a validation split.
        writes: whether this process does; of several workers only one.
    """

    def __init__(self, run: Run, validate: Callable[[keras.Model], float] | None, *, writes: bool = True):
        super().__init__()
        self.writes = writes
        self.run = run
        self.validate = validate
        self.epoch = tf.Variable(0, dtype=tf.int64)
        self.best = tf.Variable(-1.0, dtype=tf.float64)
        self.averages = None
        self.manager: tf.train.CheckpointManager | None = None

    def set_model(self, model):
        """Sets up what is saved once Keras says which model it is."""
        super().set_model(model)
        check_state_folder(pathlib.Path(self.run.config.workdir, "state"))
        if self.manager is not None:  # Keras calls this once more; another manager would count its states anew
            return
        state = tf.train.Checkpoint(network=model.network, optimizer=model.optimizer, epoch=self.epoch, best=self.best)
        _ = state.save_counter  # a variable: all workers must make it, and only one of them saves
        self.manager = tf.train.CheckpointManager(
            state, str(pathlib.Path(self.run.config.workdir, "state")), max_to_keep=_KEPT_STATES
        )
        if self.run.config.ema_momentum > 0:
            self.averages = keras.callbacks.SwapEMAWeights()
            self.averages.set_model(model)

    def resume(self) -> int:
        """Restores the newest state, if any; returns the first epoch to run.

        Raises:
            UserError: the state cannot be read or belongs to another architecture.
        """
        newest = self.manager.latest_checkpoint
        if newest is None:
            weights = run_directory.weights_path(self.run, "last")
            if weights.exists() and len(run_directory.read_history(self.run.config.workdir)) <= 1:
                print(f"{weights}: of a first epoch that was not finished; starting over")
            elif weights.exists():
                raise UserError(
                    f"{self.manager.directory}: no readable state to resume from, although {weights} is there; use "
                    "another --workdir, or delete this one to start over"
                )
            return 0
        try:
            self.manager.checkpoint.restore(newest).assert_consumed()
        except Exception as error:  # of a damaged file TensorFlow raises almost anything
            detail = reason_of(error, 300)
            raise UserError(f"{newest}: damaged, or of another architecture than run.json says: {detail}") from None
        return int(self.epoch.numpy())

    def sweep(self) -> None:
        """Removes what TensorFlow has left of states that it was killed while writing, or while removing."""
        kept = {pathlib.Path(state).name for state in self.manager.checkpoints[-_KEPT_STATES:]}
        for path in pathlib.Path(self.manager.directory).glob("*"):
            unfinished = re.search(r"(_temp|\.tempstate\d+|\.tmp[0-9a-f]+)$", path.name)
            state = re.match(r"ckpt-\d+", path.name)
            if unfinished or (kept and state and state[0] not in kept):
                disk.remove(path)

    def on_epoch_end(self, epoch, logs=None):
        """Validates and saves; adds what is logged but not shown to ``logs``."""
        logs.update(self.model.epoch_means())
        self._swap_averages("on_test_begin")
        self._save_weights("last")
        if self.validate is not None and self._validates(epoch):
            score = self.validate(self.model.network)
            logs["validation_mAP"] = score
            if score > self.best.numpy():
                self.best.assign(score)
                self._save_weights("best")
        self._swap_averages("on_test_end")

    def _save_weights(self, checkpoint: str) -> None:
        if self.writes:
            run_directory.save_weights(self.model.network, run_directory.weights_path(self.run, checkpoint))

    def save_state(self, epoch: int) -> None:
        """Everything that resuming needs, once all else of the epoch is written; ``epoch`` counts from 0."""
        self.epoch.assign(epoch + 1)
        self.manager.save(checkpoint_number=epoch + 1)
        disk.sync_below(self.manager.directory)

    def _validates(self, epoch: int) -> bool:
        return (epoch + 1) % self.run.config.validate_every == 0 or epoch + 1 == self.run.config.epochs

    def _swap_averages(self, event: str) -> None:
        # Averages are 0 until the first step that float16 does not overflow.
        if self.averages is not None and self.model.optimizer.iterations.numpy() > 0:
            getattr(self.averages, event)()


class SaveState(keras.callbacks.Callback):
    """The last thing that happens in an epoch; without it the epoch is run again."""

    def __init__(self, epoch_end: EpochEnd):
        super().__init__()
        self.epoch_end = epoch_end

    def on_epoch_end(self, epoch, logs=None):
        """Saves."""
        self.epoch_end.save_state(epoch)


def check_state_folder(folder: pathlib.Path) -> None:
    """Raises UserError unless the list of states in ``folder`` names states of this folder alone.

    TensorFlow restores from the files that the list names, and later deletes them, wherever they are.
    """
    try:
        listed = tf.train.get_checkpoint_state(str(folder))
    except Exception as error:
        raise UserError(f"{folder / 'checkpoint'}: damaged ({reason_of(error)})") from None
    paths = [listed.model_checkpoint_path, *listed.all_model_checkpoint_paths] if listed else []
    for path in map(pathlib.Path, paths):
        if path.parent != folder or not re.fullmatch(r"ckpt-[0-9]+", path.name):
            raise UserError(f"{folder / 'checkpoint'}: expected names such as ckpt-1, found {str(path)[:200]!r}")


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends training at the first step whose loss is NaN or infinite. Nothing of that epoch is saved.

    The loss is the mean of the epoch so far, so what is not looked at at once is seen at the next look.
    """

    def __init__(self):
        super().__init__()
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        """Remembers the epoch for the message."""
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Checks the loss, where it is told: see ``Trainer.compile``."""
        if np.isfinite(logs.get("loss", 0.0)):
            return
        broken = [name for name, value in self.model.epoch_means().items() if not np.isfinite(value)]
        raise UserError(
            f"the loss is no longer finite at epoch {self.epoch + 1}, step {batch + 1} ({', '.join(broken)}); the last "
            "finished epoch is kept. A lower --learning_rate or --clip_norm=1 usually helps"
        )


class History(keras.callbacks.Callback):
    """One row of numbers per finished epoch in a CSV file; resuming drops the rows of epochs that are run again."""

    def __init__(self, path: pathlib.Path, first_epoch: int):
        super().__init__()
        self.path = path
        rows = run_directory.read_history(str(path.parent)) if first_epoch else []
        self.rows = [row for row in rows if row["epoch"] <= first_epoch]

    def on_epoch_end(self, epoch, logs=None):
        """Writes the file anew, whole: it is small."""
        self.rows.append({"epoch": epoch + 1, **logs})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        safe_files.write_text(self.path, text.getvalue())

    def on_train_end(self, logs=None):
        """Prints the time of all epochs, those before a resume included."""
        seconds = run_directory.training_seconds(str(self.path.parent))
        if seconds is not None:
            print(f"trained {len(self.rows)} epochs in {seconds:.1f} s", flush=True)


class Progress(keras.callbacks.Callback):
    """A bar over the steps of an epoch on a terminal, and one line per finished epoch everywhere.

    It also measures: ``logs["seconds"]``, of an epoch's training, validation and saving of its weights, is for
    callbacks that follow.
    """

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the bar."""
        self.started = time.monotonic()
        self.bar = tqdm.tqdm(
            total=self.params["steps"],
            desc=f"epoch {epoch + 1}/{self.params['epochs']}",
            unit="step",
            leave=False,
            disable=None,
        )

    def on_train_batch_end(self, batch, logs=None):
        """Moves the bar."""
        if "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        """Prints the epoch's line; adds its ``seconds`` to ``logs``."""
        seconds = logs["seconds"] = round(time.monotonic() - self.started, 3)
        self.bar.close()
        score = f"  validation mAP {logs['validation_mAP']:.4f}" if "validation_mAP" in logs else ""
        print(f"epoch {epoch + 1}/{self.params['epochs']}  loss {logs['loss']:.4f}{score}  {seconds:.1f} s", flush=True)
