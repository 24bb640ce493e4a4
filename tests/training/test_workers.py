"""Two processes on this machine train as one does."""

import json
import os
import signal
import socket
import sys
import time

import numpy as np
import pytest

from a2net_tf.errors import UserError
from a2net_tf.training import workers
from tests import forks, tiny
from tests.training.test_distribution import ONE_LEVEL, assert_runs_alike, history

MORE = ("--validation_split=validation[:2]", "--ema_momentum=0.9", "--batch_size=8", "--random_offsets", *ONE_LEVEL)
AUGMENTED = ("--feature_noise=0.1", "--input_dropout=0.2", "--clip_norm=1")


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start(workdir, *flags, of_second=()):
    """Two workers on the loopback address; the first is the chief."""
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    running = []
    for index, more in enumerate(((), of_second)):
        cluster = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        arguments = tiny.train_flags(workdir, *MORE, *AUGMENTED, "--distribute=multi_worker", *flags, *more)
        command = [sys.executable, "-m", "a2net_tf.main", *arguments]
        environment = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
        running.append(forks.Fork(command, cwd=tiny.REPO, env=environment))
    return running


def end(running):
    """Their exit statuses and what they printed."""
    printed = ["".join(process.communicate(timeout=900)) for process in running]
    return [process.returncode for process in running], printed


@tiny.once
def one(path):
    """Three epochs in one process."""
    tiny.train(path, *MORE, *AUGMENTED, "--epochs=3")


@pytest.mark.slow
def test_killed_and_started_again_two_workers_train_as_one(tmp_path):
    """The second worker is killed in its second epoch; the chief ends too, and the same two commands go on."""
    workdir = tmp_path / "run"
    running = start(workdir, "--epochs=3")
    wait_for(workdir / "state" / "checkpoint", running)
    running[1].send_signal(signal.SIGKILL)
    statuses, printed = end(running)
    assert statuses[0] != 0, printed[0][-2000:]
    assert not (workdir / ".lock").exists() or statuses[0] < 0  # TensorFlow may end the chief by a signal
    done = len(history(workdir))
    assert 1 <= done < 3
    statuses, printed = end(start(workdir, "--epochs=3"))
    assert statuses == [0, 0], printed
    assert f"{done} epochs are done" in printed[0]
    assert "epoch 3/3" in printed[0]
    assert "epoch 3/3" not in printed[1]  # the chief alone reports
    assert_runs_alike(workdir, one())
    assert len(list((workdir / "logs" / "train").glob("events*"))) <= 2


def wait_for(path, running):
    for _ in range(9000):
        if path.exists():
            return
        assert all(process.poll() is None for process in running), end(running)
        time.sleep(0.1)
    raise AssertionError(f"no {path}")


@pytest.mark.slow
def test_workers_that_disagree_are_refused(tmp_path):
    """Both of them say so, and nothing is trained."""
    statuses, printed = end(start(tmp_path / "run", "--epochs=1", of_second=("--learning_rate=0.5",)))
    assert statuses == [1, 1], printed
    for text in printed:
        assert "error: --distribute=multi_worker: the workers have different settings or data" in text
    assert not (tmp_path / "run" / "last.npz").exists()


GOOD = {"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "task": {"type": "worker", "index": 1}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"task": {"type": "worker", "index": 2}}, "task worker has index 2, but there are 2"),
        ({"task": {"type": "worker", "index": True}}, "index True"),
        ({"task": {"type": "ps", "index": 0}}, "found .*task ps"),
        ({"task": 1}, "expected an object"),
        ({"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}, "expected workers, and maybe a chief"),
        ({"cluster": {"worker": "a:1"}}, "expected a list"),
        ({"cluster": {"worker": ["a"]}}, "expected lists of HOST:PORT"),
        ({"cluster": {}}, "expected workers"),
    ],
)
def test_clusters(change, message):
    text = json.dumps({**GOOD, **change})
    if message is None:
        workers.check_cluster(text)
    else:
        with pytest.raises(UserError, match=message):
            workers.check_cluster(text)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_texts_that_are_no_cluster(text):
    with pytest.raises(UserError, match="TF_CONFIG"):
        workers.check_cluster(text)


def test_without_a_cluster_nothing_is_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    line = tiny.refused(capsys, tmp_path, *tiny.train_flags(tmp_path / "run", "--distribute=multi_worker"))
    assert "TF_CONFIG is not set" in line


def test_one_process_is_its_own_chief_and_keeps_its_batches():
    import tensorflow as tf

    strategy, batches = tf.distribute.get_strategy(), tf.data.Dataset.range(3)
    assert workers.is_chief(strategy)
    assert workers.share(batches, strategy, 8) is batches
    assert workers.check_agreement(strategy, None, 0) is None
    with pytest.raises(tf.errors.UnavailableError), workers.losses_named(strategy):  # no worker's end
        raise tf.errors.UnavailableError(None, None, "disk")
    assert np.array_equal(list(batches.as_numpy_iterator()), [0, 1, 2])
