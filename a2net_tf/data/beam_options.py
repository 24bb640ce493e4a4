"""Whether, and how, Apache Beam prepares a dataset: ``--beam_runner`` and ``--beam_options``."""

import importlib.util
import re
from typing import NamedTuple

import tensorflow_datasets as tfds

from a2net_tf.errors import UserError


class Beam(NamedTuple):
    """How a dataset is prepared; without a runner in this process, without Beam."""

    runner: str = ""
    options: str = ""  # NAME=VALUE between commas


NO_BEAM = Beam()


def download_config(beam: Beam, manual_dir: str, *, generated: bool = False) -> tfds.download.DownloadConfig:
    """What TFDS is told of ``beam`` and of the folder with the user's files.

    Raises:
        UserError: Beam is asked for and not installed, its options have another form, or the dataset is ``generated``
            and not made of the user's files.
    """
    if not beam.runner:
        if beam.options:
            raise UserError(f"--beam_options={beam.options}: needs a --beam_runner, such as DirectRunner")
        return tfds.download.DownloadConfig(manual_dir=manual_dir or None)
    if generated:
        raise UserError(
            f"--beam_runner={beam.runner}: is for datasets of your own files, which this one is not made of"
        )
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError(f'--beam_runner={beam.runner}: Beam is not installed: pip install ".[beam]" in the checkout')
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions(flags=_flags(beam.options))
    return tfds.download.DownloadConfig(manual_dir=manual_dir or None, beam_runner=beam.runner, beam_options=options)


def _flags(text: str) -> list[str]:
    parts = [part for part in text.split(",") if part]
    for part in parts:
        if not re.match(r"[A-Za-z]\w*(=|$)", part):
            raise UserError(f"--beam_options={text}: expected NAME=VALUE or NAME between commas, found '{part[:80]}'")
    return [f"--{part}" for part in parts]
