"""A small evaluation with everything in it, as ``--mode=evaluate`` leaves it: no network is trained for it."""

import json
import pathlib

import numpy as np

from a2net_tf.evaluation import error_analysis, evaluated_file, proposals, protocols
from a2net_tf.evaluation.evaluated_file import Evaluated
from a2net_tf.evaluation.instances import Detections, GroundTruth

CLASSES = ("jump", "fall")
THRESHOLDS = (0.3, 0.5)
SECONDS = 100.0
ACTIONS = ((10.0, 20.0, 0), (40.0, 60.0, 1), (80.0, 90.0, 0))
# Start, end, class, score of what the branch finds: true, a duplicate of it, false, true, and at last a faint one.
FOUND = (
    (10.0, 20.0, 0, 0.9),
    (11.0, 20.0, 0, 0.8),
    (22.0, 32.0, 0, 0.7),
    (42.0, 60.0, 1, 0.6),
    (65.0, 75.0, 1, 0.2),
)


def evaluation(
    folder: pathlib.Path, *, names=("a", "b", "c"), class_names=CLASSES, found=FOUND, branches=("anchor_free", "both")
) -> pathlib.Path:
    """Writes recordings.npz, metrics.json, history.csv and run.json; recording n lacks the first n detections."""
    truth = GroundTruth(
        [name for name in names for _ in ACTIONS],
        [a[:2] for a in ACTIONS] * len(names),
        [a[2] for a in ACTIONS] * len(names),
    )
    rows = [(name, *row) for n, name in enumerate(names) for row in found[n % len(found) :]]
    table = Detections([r[0] for r in rows], [r[1:3] for r in rows], [r[3] for r in rows], [r[4] for r in rows])
    detections = dict.fromkeys(branches, table)
    folder.mkdir(parents=True, exist_ok=True)
    durations = np.full(len(names), SECONDS)
    evaluated_file.write_evaluated(
        folder / evaluated_file.FILE, Evaluated(list(names), durations, list(class_names), truth, detections)
    )
    metrics = protocols.evaluate(
        truth,
        table,
        protocol="activitynet",
        tiou_thresholds=THRESHOLDS,
        class_names=class_names,
        duration_edges=None,
    )
    metrics["proposals"] = proposals.average_recall(truth, table)
    metrics["errors"] = error_analysis.analyze(
        truth,
        table,
        tiou_thresholds=THRESHOLDS,
        num_classes=len(class_names),
        durations=dict.fromkeys(names, SECONDS),
    )
    origin = {"dataset": "made/1.0.0", "split": "test", "checkpoint": "last", "seed": 0, "versions": {"numpy": "2"}}
    metrics |= {"branches": dict.fromkeys(branches, dict(metrics)), **origin, "settings": {"epochs": 3, "seed": 0}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "history.csv").write_text("epoch,loss,seconds,validation_mAP\n1,3.5,2.0,\n2,2.5,2.0,0.5\n3,nan,2.0,0.6\n")
    (folder / "run.json").write_text(json.dumps({"commit": "0123abc", "precision": "float32"}))
    return folder
