"""A2Net: find when actions happen in long sequences of feature vectors.

A command does what its mode says, with settings from flags and from files of flags:

    python -m a2net_tf.main --flagfile=configs/quickstart.flags --mode=MODE

``a2net`` is the same command, where the package is installed.
"""

import sys
from collections.abc import Sequence

from a2net_tf import settings
from a2net_tf.errors import UserError
from a2net_tf.native_logs import quiet_native_logs


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        help_text = settings.help_asked_for(__doc__, arguments)
        if help_text is not None:
            sys.stdout.write(help_text)
            return 0
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
