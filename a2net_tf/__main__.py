"""``python -m a2net_tf``: the same as ``python -m a2net_tf.main``."""

import sys

from a2net_tf.main import main

if __name__ == "__main__":
    sys.exit(main())
