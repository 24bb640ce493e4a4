"""Records made by Apache Beam, in several processes or on several machines. Only imported where Beam is asked for."""

import pickle
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence

import apache_beam as beam
import tensorflow as tf

from a2net_tf.data.schema import stored_chunks
from a2net_tf.errors import MAX_LISTED, UserError, one_line

_ERRORS = "errors"
_GROUPS = 1000  # of videos that a worker takes at once: more cost time and memory, fewer share the work unequally

Videos = Sequence[Callable[[], Iterable[dict]]]


class MakeRecords(beam.PTransform):
    """(key, record) of each video of a split; what is wrong with videos goes into text files.

    Args:
        videos: functions that read a video and return its records.
        stored_features: type in which features are stored.
        folder: of the text files; it is there when the pipeline runs.
    """

    def __init__(self, videos: Videos, stored_features: str, folder: str):
        super().__init__()
        self._videos, self._stored_features, self._folder = list(videos), stored_features, folder

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """The pipeline from nothing to records."""
        size = len(self._videos) // _GROUPS + 1
        # Beam would pickle each function alone, with all that they share.
        groups = [pickle.dumps(self._videos[i : i + size]) for i in range(0, len(self._videos), size)]
        make = beam.ParDo(_Make(self._stored_features, self._folder))
        return pipeline | beam.Create(groups) | beam.Reshuffle() | make


class _Make(beam.DoFn):
    """Records of a group of videos, one video in memory at a time."""

    def __init__(self, stored_features: str, folder: str):
        self._stored_features, self._folder = stored_features, folder

    def start_bundle(self) -> None:
        """Begins with no errors."""
        self._errors: list[str] = []

    def process(self, group: bytes) -> Iterator[tuple[str, dict]]:
        """Goes on behind a video that cannot be used."""
        videos: Videos = pickle.loads(group)
        for read_video in videos:
            try:
                for record in read_video():
                    yield from stored_chunks(record, self._stored_features)
            except UserError as error:
                self._errors.append(one_line(error))

    def finish_bundle(self) -> None:
        """Writes the errors: not as an output of the pipeline, which fails before where nothing is left of a split."""
        if self._errors:
            with tf.io.gfile.GFile(f"{self._folder}/{_ERRORS}-{uuid.uuid4().hex}", "w") as file:
                file.write("\n".join(self._errors))


def raise_errors(folder: str) -> None:
    """Removes the text files of ``MakeRecords``; raises UserError, with the first of them, if they hold errors."""
    found = set()  # a group may have been tried twice
    for path in tf.io.gfile.glob(f"{folder}/{_ERRORS}-*"):
        found |= set(tf.io.gfile.GFile(path).read().splitlines())
        tf.io.gfile.remove(path)
    if found:
        raise UserError(f"{len(found)} videos cannot be used: {'; '.join(sorted(found)[:MAX_LISTED])}")
