"""A2Net: find when actions happen in long sequences of feature vectors.

    python -m a2net_tf.main --flagfile=configs/quickstart.flags --mode=MODE

modes:
  train               train on --train_split; goes on where it was stopped
  evaluate            score --eval_split with the model in --workdir
  train_and_evaluate  both
  ablate              train and score the rows of --ablation below --workdir, and print them as one table
  cross_validate      train on all but one of --fold_splits, each in turn, and score what the networks have not seen
  check               what --dataset holds, and whether the settings can reach its actions
  predict             detections for --features (a .npy file or a folder), or else for --eval_split, with --workdir
                      or --saved_model
  export              write the model in --workdir as --saved_model, --tflite or --onnx
  score               judge --detections against --ground_truth by --protocol, without a model
  import_release      turn --release_checkpoint, a PyTorch file of the authors' release, into a run in --workdir
  profile             count parameters and multiply-adds of the network that the settings describe
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence

# TensorFlow's start-up chatter would bury the one line that matters; TF_CPP_MIN_LOG_LEVEL=0 shows all of it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from a2net_tf import config as settings
from a2net_tf.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or {"--help", "-h", "-help", "--helpfull"} & set(arguments):
        settings.print_help(__doc__)
        return 0
    try:
        config, given = settings.parse(arguments)
        with quiet_native_logs():
            from a2net_tf import modes  # TensorFlow takes seconds to load; a mistyped flag should not
        modes.run(config, given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on with the last finished epoch", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def quiet_native_logs() -> Iterator[None]:
    """Holds back what TensorFlow's libraries print while they load, unless loading fails.

    They write to the file descriptor before any log level applies.
    """
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0":
        yield
        return
    with tempfile.TemporaryFile() as sink:
        stderr = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except BaseException:
            sink.seek(0)
            os.write(stderr, sink.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


if __name__ == "__main__":
    sys.exit(main())
