"""Files of torch.save, in both formats. PyTorch writes them where it is installed; an attack needs none."""

import collections
import os
import pickle

import numpy as np
import pytest

from a2net_tf.errors import UserError
from a2net_tf.video.extractors.torch_files import read_tensors

HEADERS = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})


def old_file(path, loaded):
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in (*HEADERS, loaded, [])))
    return path


class Attack:
    """Unpickled by Python, it runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("new_format", [True, False])
def test_tensors_come_back(tmp_path, new_format):
    torch = pytest.importorskip("torch", reason="PyTorch writes the file")
    whole = torch.arange(24.0).reshape(4, 6)
    state = collections.OrderedDict(
        weight=torch.randn(3, 4, 5),
        view=whole[1:3, ::2],  # not contiguous, with an offset, of a storage that another one shares
        turned=whole.T,
        half=torch.randn(7).half(),
        count=torch.tensor(12),
        empty=torch.zeros(0, 3),
    )
    path = tmp_path / "weights.pth"
    torch.save({**state, "epoch": 3}, path, _use_new_zipfile_serialization=new_format)
    found = read_tensors(str(path))
    assert list(found) == list(state)  # what is no tensor is left out
    for name, tensor in state.items():
        assert found[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(found[name], tensor.numpy())


@pytest.mark.parametrize("new_format", [True, False])
def test_a_module_saves_its_state(tmp_path, new_format):
    torch = pytest.importorskip("torch", reason="PyTorch writes the file")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    path = tmp_path / "weights.pt"
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=new_format)
    assert {name: value.shape for name, value in read_tensors(str(path)).items()} == {
        name: tuple(value.shape) for name, value in module.state_dict().items()
    }


def test_nothing_in_a_file_is_run(tmp_path):
    done = tmp_path / "done"
    path = old_file(tmp_path / "evil.pth", {"weight": Attack(f"touch {done}")})
    with pytest.raises(UserError, match=r"evil\.pth: refused: it holds more than tensors \((posix|nt)\.system\)"):
        read_tensors(str(path))
    assert not done.exists()


@pytest.mark.parametrize("name", ["torch._utils._rebuild_parameter", "builtins.eval", "numpy.load"])
def test_whatever_is_not_needed_is_refused(tmp_path, name):
    module, _, function = name.rpartition(".")
    attack = f"c{module}\n{function}\n.".encode()  # the pickle of this function
    path = tmp_path / "a.pth"
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in HEADERS) + attack)
    with pytest.raises(UserError, match=f"refused: .*{name}"):
        read_tensors(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"", "damaged, or no file of weights"),
        (b"weights\n" * 9, "damaged, or no file of weights"),
        (pickle.dumps({"a": 1}), "damaged, or no file of weights of PyTorch .it does not begin as one"),
        (b"".join(pickle.dumps(part, protocol=2) for part in (*HEADERS, {"epoch": 3}, [])), "no tensors in it"),
        (b"".join(pickle.dumps(part, protocol=2) for part in (*HEADERS, [1, 2], [])), "damaged"),
    ],
)
def test_what_is_no_such_file(tmp_path, content, message):
    path = tmp_path / "a.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.pth: {message}"):
        read_tensors(str(path))


@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_that_was_cut_off(tmp_path, new_format):
    torch = pytest.importorskip("torch", reason="PyTorch writes the file")
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.randn(100)}, path, _use_new_zipfile_serialization=new_format)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"a\.pth: damaged"):
        read_tensors(str(path))
