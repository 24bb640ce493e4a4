"""docs/tour.ipynb runs, and what is committed is what a run printed.

To write its outputs anew: ``jupyter execute --inplace docs/tour.ipynb``.
"""

import ast
import re

import pytest

from tests import tiny

nbformat = pytest.importorskip("nbformat", reason='needs pip install ".[notebook]"')
nbclient = pytest.importorskip("nbclient", reason='needs pip install ".[notebook]"')
pytest.importorskip("ipykernel", reason='needs pip install ".[notebook]"')


@pytest.fixture
def tour():
    return nbformat.read(tiny.REPO / "docs" / "tour.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_after(notebook, source):
    """What the one cell with ``source`` in it printed or returned."""
    [cell] = [cell for cell in code_cells(notebook) if source in cell.source]
    return "".join(out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)


def check_results(notebook):
    assert "trained 20 epochs" in text_after(notebook, "a2net_tf.train(")
    assert "start_seconds" in text_after(notebook, "to_pandas")
    mean_precision = ast.literal_eval(text_after(notebook, "a2net_tf.evaluate(").strip().splitlines()[-1])
    assert mean_precision[0.5] > 0.5
    difference = re.search(r"largest difference in seconds: (\S+)", text_after(notebook, 'a2net_tf.load("model")'))
    assert float(difference[1]) <= 0.001
    assert "is the matrix transposed?" in text_after(notebook, "features.T")
    assert any("image/png" in out.get("data", {}) for cell in code_cells(notebook) for out in cell.outputs)


def test_committed_outputs(tour):
    cells = code_cells(tour)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    check_results(tour)
    written = "".join(str(out) for cell in cells for out in cell.outputs)
    assert not re.search(r"stderr|/tmp|/home|/root", written)


@pytest.mark.slow
def test_it_runs(tour, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tiny.REPO))
    for name in ("TMPDIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(tour, timeout=600, kernel_name="python3", resources=where).execute()
    check_results(tour)
