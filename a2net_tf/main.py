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

import sys
from collections.abc import Sequence

from a2net_tf import settings
from a2net_tf.errors import UserError
from a2net_tf.native_logs import quiet_native_logs


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or {"--help", "-h", "-help", "--helpfull"} & set(arguments):
        settings.print_help(__doc__)
        return 0
    try:
        config, given = settings.parse(arguments)
        with quiet_native_logs():
            from a2net_tf.modes import command
        command.run(config, given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on with the last finished epoch", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
