"""The report in the browser: one file that needs no network, or a folder where it would be too large.

Its parts are in ``page/``. plotly's JavaScript, which draws the curves, comes from the Python package plotly (``pip
install ".[plots]"`` in the checkout).
"""

import html
import importlib.resources
import importlib.util
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from a2net_tf import safe_files
from a2net_tf.errors import UserError
from a2net_tf.report import media
from a2net_tf.report.report_data import Results, check_comparable, report_data
from a2net_tf.safe_files import exchange, folder_beside, write_text

FILE, FOLDER = "report.html", "report"
MISSING = 'plotly is missing (pip install ".[plots]" in the checkout, or --noreport)'
_MOST_BYTES = 8_000_000
_MOST_RECORDINGS = 200
_SCRIPTS = ("data.js", "timelines.js", "recordings.js", "charts.js", "tables.js", "page.js")


def is_possible() -> bool:
    """Whether the library is there that draws."""
    return importlib.util.find_spec("plotly") is not None


def check_possible(folder: pathlib.Path) -> None:
    """Raises UserError if the report could not be written to ``folder`` later."""
    safe_files.check_writable(folder / FILE)
    if (folder / FOLDER).exists() and not (folder / FOLDER).is_dir():
        raise UserError(f"{folder / FOLDER}: is in the way: a report of many recordings is a folder of that name")


def write_report(
    folder: pathlib.Path, results: Sequence[Results], *, min_score: float, files: Mapping[str, pathlib.Path]
) -> pathlib.Path:
    """Writes the report of one or more runs, whole or not at all; an earlier one is kept.

    Args:
        folder: where report.html goes, or, beyond 200 recordings or 8 MB, the folder report/ with index.html.
        results: of the runs.
        min_score: where the slider for the lowest score stands at first.
        files: {recording: its video or sound}.

    Returns:
        The file to open.

    Raises:
        UserError: plotly is missing, the runs cannot be compared, or the report cannot be written.
    """
    if not is_possible():
        raise UserError(f"no report: {MISSING}")
    check_comparable(results)
    title = " and ".join(result.name for result in results)
    if len(results[0].evaluated.names) <= _MOST_RECORDINGS:
        text = _one_file(title, _data(folder, results, min_score, files))
        if len(text.encode()) <= _MOST_BYTES:
            write_text(folder / FILE, text, keep_earlier=True)
            return folder / FILE
    with folder_beside(folder / FOLDER) as written:
        data = _data(folder / FOLDER, results, min_score, files)
        for name, content in _many_files(title, data).items():
            (written / name).write_text(content, encoding="utf-8")
        exchange(written, folder / FOLDER, keep_earlier=True)
    return folder / FOLDER / "index.html"


def _data(
    page_folder: pathlib.Path, results: Sequence[Results], min_score: float, files: Mapping[str, pathlib.Path]
) -> dict[str, Any]:
    addresses = {name: media.address_of(file, page_folder) for name, file in files.items()}
    kinds = {name: media.kind_of(address) for name, address in addresses.items()}
    return {**report_data(results, min_score=min_score, media=addresses), "kinds": kinds}


def _one_file(title: str, data: Mapping[str, Any]) -> str:
    # plotly takes a while to be parsed: as a text it costs nothing until the first curve is drawn.
    scripts = [
        f'<script type="application/json" id="data">{_json(data)}</script>',
        f'<script type="text/plain" id="plotly">{_inside_script(_plotly())}</script>',
        f"<script>{_inside_script(_code())}</script>",
    ]
    return _page(title, "\n".join(scripts))


def _many_files(title: str, data: Mapping[str, Any]) -> dict[str, str]:
    scripts = '<script src="data.js" defer></script>\n<script src="page.js" defer></script>'
    return {
        "index.html": _page(title, scripts),
        "data.js": f"window.REPORT_DATA = {_json(data)};\n",
        "page.js": _code(),
        "plotly.js": _plotly(),
    }


def _page(title: str, scripts: str) -> str:
    text = _part("page.html")
    for mark, content in (("TITLE", html.escape(title)), ("STYLE", _part("page.css")), ("SCRIPTS", scripts)):
        text = text.replace(f"<!--{mark}-->", content, 1)
    return text


def _part(name: str) -> str:
    return importlib.resources.files("a2net_tf.report").joinpath("page", name).read_text(encoding="utf-8")


def _code() -> str:
    """All scripts as one function, so that their names are nobody else's."""
    return "(() => {\n" + "\n".join(_part(name) for name in _SCRIPTS) + "\n})();\n"


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _json(data: Mapping[str, Any]) -> str:
    """JSON that may stand in a script of a page: no name of a class or recording can end it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _inside_script(code: str) -> str:
    r"""JavaScript that may stand in a page: in its texts "<\/script" means the same."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
