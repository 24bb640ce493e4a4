"""ELAN's .eaf files, by pympi-ling: time-alignable tiers as actions, and detections as tiers to be corrected."""

import contextlib
import types
from collections.abc import Sequence

from a2net_tf.annotations.marks import Found, Mark, Milliseconds, Recording, in_milliseconds, recording_name
from a2net_tf.annotations.reading import Reading
from a2net_tf.errors import UserError, list_some, reason_of
from a2net_tf.safe_files import Path, replace_file

# A property of the document, which ELAN keeps: a recording's name can hold what the name of a file cannot.
NAME_PROPERTY = "recording"
SCORE_TYPE = "score"  # the type of the tiers that say how sure a detection is


def _pympi() -> types.ModuleType:
    try:
        import pympi
    except ImportError:
        raise UserError(
            'ELAN\'s files need pympi-ling, which is not installed: pip install ".[annotations]" in the checkout'
        ) from None
    return pympi


def check_installed() -> None:
    """Raises UserError if pympi-ling is not installed."""
    _pympi()


def read(path: Path, reading: Reading, *, own_name: str) -> list[Recording]:
    """The recording of a file.

    Without ``reading.tiers`` all tiers with times of their own are read; those that refer to other tiers are left out.
    A tier that refers and is named takes the times of what it refers to. Annotations without a text are none.

    Args:
        path: of the file.
        reading: settings.
        own_name: of the recording, unless the file says it.

    Raises:
        UserError: no file of ELAN, no such tier, an annotation without times, or pympi-ling is not installed.
    """
    eaf = _open(path)
    properties = dict(eaf.properties)
    name = recording_name(str(properties[NAME_PROPERTY]), str(path)) if properties.get(NAME_PROPERTY) else own_name
    recording = Recording(name, str(path))
    scores = _scores(eaf)
    for tier in _chosen_tiers(eaf, reading, path):
        recording.marks += _marks(eaf, tier, scores, f"{path}: tier '{tier}'")
    recording.marks.sort(key=lambda mark: (mark.start, mark.end))
    return [recording]


def _open(path: Path):  # -> pympi.Eaf
    pympi = _pympi()
    try:
        with open(path, "rb"):
            pass
        return pympi.Eaf(str(path), suppress_version_warning=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # whatever the parser meets in a damaged file: it has no exception of its own
        raise UserError(f"{path}: cannot be read as a file of ELAN ({reason_of(error)}); can ELAN open it?") from None


def _chosen_tiers(eaf, reading: Reading, path: Path) -> list[str]:
    if missing := [tier for tier in reading.tiers if tier not in eaf.tiers]:
        raise UserError(f"{path}: no tier {list_some(missing)}; there are {list_some(eaf.tiers)}")
    if reading.tiers:
        return list(reading.tiers)
    referring = [tier for tier, (_, referring, *_) in eaf.tiers.items() if referring and not _is_score(eaf, tier)]
    if referring:
        print(f"{path}: tiers without times of their own are left out: {list_some(referring)}")
    return [tier for tier, (aligned, *_) in eaf.tiers.items() if aligned]


def _marks(eaf, tier: str, scores: dict[str, float], where: str) -> list[Mark]:
    aligned, referring, *_ = eaf.tiers[tier]
    values = {key: (key, value) for key, (_, _, value, _) in aligned.items()}
    values |= {key: (_aligned_parent(eaf, key), value) for key, (_, value, _, _) in referring.items()}
    marks = []
    for parent, value in values.values():
        if not value.strip():
            continue
        start, end = _times(eaf, parent, f"{where}: '{value.strip()}'")
        marks.append(Mark(start / 1000, end / 1000, value, where, scores.get(parent)))
    return marks


def _aligned_parent(eaf, annotation: str) -> str:
    """The annotation with times that one refers to, through any number of tiers; a circle ends nowhere."""
    seen = set()
    while annotation not in seen and (tier := eaf.annotations.get(annotation)):
        seen.add(annotation)
        aligned, referring, *_ = eaf.tiers[tier]
        if annotation in aligned:
            return annotation
        annotation = referring[annotation][0]
    return annotation


def _times(eaf, annotation: str, where: str) -> tuple[int, int]:
    tier = eaf.annotations.get(annotation)
    slots = eaf.tiers[tier][0].get(annotation) if tier else None
    times = [eaf.timeslots.get(slot) for slot in slots[:2]] if slots else [None]
    if None in times:
        raise UserError(f"{where} has no times of its own; name other tiers with 'tiers' in settings.json")
    return tuple(times)


def _is_score(eaf, tier: str) -> bool:
    return eaf.tiers[tier][2].get("LINGUISTIC_TYPE_REF") == SCORE_TYPE


def _scores(eaf) -> dict[str, float]:
    """By the annotation that a score refers to."""
    scores = {}
    for tier, (_, referring, *_) in eaf.tiers.items():
        for parent, value, *_ in referring.values() if _is_score(eaf, tier) else ():
            with contextlib.suppress(ValueError):  # a person may have written something else there
                scores[parent] = float(value)
    return scores


# Writing


def write(path: Path, name: str, rows: Sequence[Found]) -> None:
    """Writes the detections of one recording, each class in a tier of its own, with a tier of scores below it.

    Annotations of one tier cannot overlap in ELAN: detections of a class that do, or that meet, go into several tiers.

    Args:
        path: of the file; an earlier one is kept.
        name: of the recording.
        rows: its detections.

    Raises:
        UserError: it cannot be written, or pympi-ling is not installed.
    """
    eaf = _pympi().Eaf(author="a2net_tf")
    eaf.remove_tier("default")
    eaf.add_linguistic_type(SCORE_TYPE, constraints="Symbolic_Association", timealignable=False)
    eaf.add_property(NAME_PROPERTY, name)
    for tier, annotations in _tiers(in_milliseconds(rows)).items():
        eaf.add_tier(tier, ling="default-lt")
        eaf.add_tier(f"{tier} (score)", ling=SCORE_TYPE, parent=tier)
        for row in annotations:
            eaf.add_annotation(tier, row.start, row.end, row.label)
            eaf.add_ref_annotation(f"{tier} (score)", tier, row.start, f"{row.score:.3f}")
    eaf.properties = [(key, value) for key, value in eaf.properties if key != "lastUsedAnnotation"]
    eaf.add_property("lastUsedAnnotation", len(eaf.annotations) + 1)
    with replace_file(path, keep_earlier=True) as temporary:
        eaf.to_file(str(temporary))


def _tiers(rows: Sequence[Milliseconds]) -> dict[str, list[Milliseconds]]:
    """Rows by the name of their tier: the class, "CLASS 2" for what overlaps there, and so on; a name is used once."""
    lanes: dict[str, list[list[Milliseconds]]] = {}
    for row in rows:
        of_class = lanes.setdefault(row.label, [])
        free = next((lane for lane in of_class if lane[-1].end < row.start), None)
        if free is None:
            of_class.append([row])
        else:
            free.append(row)
    tiers: dict[str, list[Milliseconds]] = {}
    for label, of_class in sorted(lanes.items()):
        for lane in of_class:
            number, tier = 1, label
            while tier in tiers or (number == 1 and lane is not of_class[0]) or (number > 1 and tier in lanes):
                number += 1
                tier = f"{label} {number}"
            tiers[tier] = lane
    return tiers
