"""From settings to the mode that they ask for."""

import re
from typing import Any

import tensorflow as tf

from a2net_tf import disk, settings
from a2net_tf.compat import op_determinism
from a2net_tf.data import prepared
from a2net_tf.data.schema import DAMAGED_RECORD
from a2net_tf.errors import UserError
from a2net_tf.modes import (
    ablate,
    check,
    cross_validate,
    evaluate,
    export,
    extract,
    import_release,
    predict,
    profile,
    report,
    score,
    train,
    tune,
)
from a2net_tf.settings import Config
from a2net_tf.training import by_device, run_directory

tf.config.list_physical_devices()  # starts CUDA now, whose complaints about a missing GPU main.py holds back


def run(config: Config, given: frozenset[str]) -> Any:
    """Runs ``config.mode``; a second call in one process does what it would do in a new one.

    Args:
        config: all settings.
        given: names of the settings that the user gave; the others follow the trained model where there is one.

    Returns:
        The metrics as they are written, of evaluate, train_and_evaluate, score and profile; else None.

    Raises:
        UserError: anything that the user can mend.
    """
    try:
        with op_determinism(by_device.is_deterministic(config.deterministic, by_device.kind())):
            return _MODES[config.mode](config, given)
    except (tf.errors.OpError, UnicodeDecodeError) as error:  # the latter where TensorFlow quotes a damaged record
        raise _explained(error, config, given) from error
    except OSError as error:  # the disk, permissions: nothing that a traceback would explain better
        raise UserError(" ".join(str(error).split())) from error


def _explained(error: tf.errors.OpError | UnicodeDecodeError, config: Config, given: frozenset[str]) -> Exception:
    """Turns what TensorFlow says about bad data or a full disk into one line; a defect of ours stays as it is."""
    failed_assertion = re.search(r"assertion failed: (\[.*\])", str(error))
    if _may_be_damage(error) and (not failed_assertion or DAMAGED_RECORD in failed_assertion[1]):
        damaged = _damaged_file(config, given)
        if damaged:
            details = f" ({_words(failed_assertion)})" if failed_assertion else ""
            return UserError(
                f"{damaged}: missing, truncated or damaged record file{details}; delete the prepared dataset and "
                "prepare it again"
            )
    if disk.is_full(error):
        return UserError(f"the disk is full: {_first_line(error)}")
    if isinstance(error, (tf.errors.PermissionDeniedError, tf.errors.FailedPreconditionError)):
        return UserError(f"cannot write: {_first_line(error)}")
    if failed_assertion:
        return UserError(_words(failed_assertion))
    return error


def _may_be_damage(error: tf.errors.OpError | UnicodeDecodeError) -> bool:
    """A file that ends between two records is a failed precondition, a record that is none an invalid argument."""
    kinds = "DataLossError", "FailedPreconditionError", "NotFoundError", "InvalidArgumentError", "OutOfRangeError"
    return type(error).__name__ in (*kinds, "UnicodeDecodeError")


def _words(assertion: re.Match) -> str:
    return re.sub(r"[\[\]']+ ?", " ", assertion[1]).strip()


def _first_line(error: tf.errors.OpError) -> str:
    return str(error.message).splitlines()[0][:300]


def _damaged_file(config: Config, given: frozenset[str]) -> str | None:
    """The record file that cannot be read, of the dataset of this command or of the trained run that it uses."""
    workdir = config.workdir.split(",")[0]
    if run_directory.exists(workdir):
        config = settings.merge(run_directory.load(workdir).config, config, given)
    if not config.dataset:
        return None
    builder = prepared.open_dataset_of(config)
    used = (config.train_split, config.validation_split, config.eval_split)
    for split in builder.info.splits if config.mode == "cross_validate" else filter(None, used):
        if path := prepared.find_damaged_file(builder, split):
            return path
    return None


def _train_and_evaluate(config: Config, given: frozenset[str]) -> dict:
    train.train(config)
    return evaluate.evaluate(config, given)


_MODES = {
    "train": lambda config, given: train.train(config),
    "evaluate": evaluate.evaluate,
    "report": lambda config, given: report.report(config),
    "train_and_evaluate": _train_and_evaluate,
    "ablate": lambda config, given: ablate.ablate(config),
    "cross_validate": cross_validate.cross_validate,
    "tune": tune.tune,
    "check": lambda config, given: check.check(config),
    "predict": predict.predict,
    "export": export.export,
    "extract": lambda config, given: extract.extract(config),
    "score": score.score,
    "profile": lambda config, given: profile.profile(config),
    "import_release": import_release.import_release,
}
