"""``--mode=report``: from what evaluations have left to a page for the browser, several runs side by side."""

import pathlib

from a2net_tf import settings
from a2net_tf.errors import UserError
from a2net_tf.report import media, report_data, report_page
from a2net_tf.settings import Config


def report(config: Config) -> None:
    """Writes the report of the runs in ``config.workdir``, each of which was evaluated before."""
    settings.require(config, "workdir")
    workdirs = config.workdir.split(",")
    if len(workdirs) > 1:
        settings.require(config, "output")
    folder = pathlib.Path(config.output or config.workdir)
    if not report_page.is_possible():
        raise UserError(f"no report: {report_page.MISSING}")
    report_page.check_possible(folder)
    names = [pathlib.Path(workdir).absolute().name for workdir in workdirs]
    if len(set(names)) < len(names):
        names = workdirs
    results = [report_data.read_results(pathlib.Path(w), name=n) for w, n in zip(workdirs, names, strict=True)]
    report_data.check_comparable(results)
    files = media.find_media(config.videos, results[0].evaluated.names)
    path = report_page.write_report(folder, results, min_score=config.subtitle_score, files=files)
    print(f"written: {path}, {path.stat().st_size / 1e6:.1f} MB; open it in a browser")
