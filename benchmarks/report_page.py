"""How large the report of many recordings is, and how fast a browser shows it: needs chromium, chromedriver, selenium.

    python benchmarks/report_page.py --recordings=500 --detections=100000

writes a made evaluation and its report into a temporary folder, opens it at its time lines and measures: the first
paint; until all cards are there; and, as a person moves it, from each change of the slider until the frame with the
new pictures is drawn. Times are the browser's own; beside that of a move stands what the page's thread computed for
it, which says more on a machine that does other work as well.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout runs without being installed

from a2net_tf.evaluation import error_analysis, evaluated_file, proposals, protocols
from a2net_tf.evaluation.evaluated_file import Evaluated
from a2net_tf.evaluation.instances import Detections, GroundTruth
from a2net_tf.report import report_data, report_page

BRANCHES = ("anchor_free", "anchor_based", "both")
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
_MEASURE = """const [values, done] = arguments, slider = document.getElementById("min-score"), times = [];
function next() {
  if (!values.length) return done(times);
  slider.value = values.shift();
  const start = performance.now();
  slider.dispatchEvent(new Event("input"));
  requestAnimationFrame(() => setTimeout(() => (times.push(performance.now() - start), next())));
}
next();"""


def make(folder: pathlib.Path, num_recordings: int, num_detections: int, num_classes: int) -> None:
    """Writes what an evaluation leaves: 6 actions a recording, and detections that find some of them."""
    draw, each = np.random.default_rng(0), num_detections // num_recordings // len(BRANCHES)
    names, classes = [f"recording_{i:04}" for i in range(num_recordings)], [f"class {c}" for c in range(num_classes)]
    starts = np.sort(draw.uniform(0, 280, (num_recordings, 6)), axis=1).reshape(-1)
    segments = np.stack([starts, starts + draw.uniform(2, 20, len(starts))], axis=1)
    truth = GroundTruth(np.repeat(names, 6), segments, draw.integers(num_classes, size=len(starts)))
    found, metrics = {}, {}
    for branch in BRANCHES:
        of = np.repeat(np.arange(num_recordings) * 6, each) + draw.integers(6, size=num_recordings * each)
        moved = segments[of] + draw.normal(0, 4, (len(of), 2))
        moved[:, 1] = np.maximum(moved[:, 1], moved[:, 0] + 0.5)
        labels = np.where(draw.random(len(of)) < 0.7, truth.labels[of], draw.integers(num_classes, size=len(of)))
        found[branch] = Detections(np.repeat(names, each), moved, labels, draw.beta(0.5, 2, len(of)))
        metrics[branch] = _judge(truth, found[branch], names, classes)
    folder.mkdir(parents=True)
    evaluated = Evaluated(names, np.full(num_recordings, 300.0), classes, truth, found)
    evaluated_file.write_evaluated(folder / evaluated_file.FILE, evaluated)
    (folder / "metrics.json").write_text(json.dumps({**metrics["both"], "branches": metrics, "settings": {}}))


def _judge(truth: GroundTruth, found: Detections, names: list[str], classes: list[str]) -> dict:
    durations = dict.fromkeys(names, 300.0)
    return {
        **protocols.evaluate(
            truth,
            found,
            protocol="activitynet",
            tiou_thresholds=THRESHOLDS,
            class_names=classes,
            duration_edges=None,
        ),
        "proposals": proposals.average_recall(truth, found),
        "errors": error_analysis.analyze(
            truth, found, tiou_thresholds=THRESHOLDS, num_classes=len(classes), durations=durations
        ),
    }


def measure(path: pathlib.Path) -> dict[str, float]:
    """Opens the report three times, each in a new browser; medians, and of the slider the slowest of all too."""
    opened = [_open(path) for _ in range(3)]
    moves = [ms for one in opened for ms in one["slider_ms"]]
    return {
        **{key: statistics.median(one[key] for one in opened) for key in ("first_paint_ms", "complete_ms")},
        "slider_ms": statistics.median(moves),
        "slowest_slider_ms": max(moves),
        "slider_cpu_ms": statistics.median(one["slider_cpu_ms"] for one in opened),
    }


def _open(path: pathlib.Path) -> dict:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,1000",
    ):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(f"{path.as_uri()}#timelines")
        while not browser.execute_script("return document.querySelectorAll('canvas').length"):
            time.sleep(0.02)
        paint = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
        loaded = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        before, values = _thread_seconds(browser), [i / 20 for i in range(20)]
        moves = browser.execute_async_script(_MEASURE, values)
        computed = _thread_seconds(browser) - before
        return {
            "first_paint_ms": browser.execute_script(paint),
            "complete_ms": browser.execute_script(loaded),
            "slider_ms": moves,
            "slider_cpu_ms": 1000 * computed / len(values),
        }
    finally:
        browser.quit()


def _thread_seconds(browser) -> float:
    metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=500)
    parser.add_argument("--detections", type=int, default=100_000, help="of all branches together")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--keep", default="", help="a folder for the report; empty: it is removed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(given.keep or temporary, "run")
        make(folder, given.recordings, given.detections, given.classes)
        start = time.perf_counter()
        path = report_page.write_report(folder, [report_data.read_results(folder)], min_score=0.3, files={})
        written = {"write_seconds": round(time.perf_counter() - start, 2), "file": path.name}
        files = path.parent.iterdir() if path.name == "index.html" else [path]
        size = sum(file.stat().st_size for file in files) / 1e6
        print(json.dumps({**vars(given), **written, "megabytes": round(size, 2), **measure(path)}))


if __name__ == "__main__":
    main()
