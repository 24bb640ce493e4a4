"""A2Net: find when actions happen in long sequences of feature vectors.

A command does what its mode says, with settings from flags and from files of flags:

    python -m a2net_tf.main --flagfile=configs/quickstart.flags --mode=MODE

``a2net`` is the same command, where the package is installed.
"""

import sys
import tempfile
import traceback
from collections.abc import Sequence

from a2net_tf import settings
from a2net_tf.errors import UserError, one_line
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
        _print_error(one_line(error))
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what is not finished", file=sys.stderr)
        return 130
    except Exception as error:  # a defect of ours; whoever meets it gets one line too
        _print_error(f"{one_line(f'{type(error).__name__}: {error}')[:300]} (not expected; {_keep_traceback()})")
        return 1
    return 0


def _print_error(text: str) -> None:
    """A terminal that has not all letters shows escapes for the others."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    print(f"error: {text}".encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


def _keep_traceback() -> str:
    """Writes the traceback of the exception at hand to a file; returns the words that say where."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="a2net_tf_", suffix=".txt", delete=False, errors="replace"
        ) as file:
            traceback.print_exc(file=file)
    except OSError:
        traceback.print_exc()
        return "the traceback is above"
    return f"the traceback is in {file.name}"


if __name__ == "__main__":
    sys.exit(main())
