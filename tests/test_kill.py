"""A few kills with a fixed seed; ``python -m tests.kill`` does many, of every kind of command."""

import os
import re
import subprocess
import sys

import pytest

from tests import tiny

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_kills(tmp_path):
    """In a process of its own, in which TensorFlow has not run yet."""
    command = [sys.executable, "-m", "tests.kill", "--kills=5", "--seed=1", "--only=prepare,train"]
    environment = {name: value for name, value in os.environ.items() if name != "A2NET_TESTS_FOLDER"}
    environment["TMPDIR"] = str(tmp_path)
    done = subprocess.run(command, cwd=tiny.REPO, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert re.search(r"^all +5 ", done.stdout, re.MULTILINE)
    assert list(tmp_path.glob("a2net_tf_tests_*")) == []
