"""Every setting: its definition, its checks, its forms as flags, flagfile and dictionary."""

from a2net_tf.settings.checks import check, require
from a2net_tf.settings.command_line import parse
from a2net_tf.settings.config import (
    EVALUATION_SETTINGS,
    EXPORTED_SETTINGS,
    FIELDS,
    MODEL_SETTINGS,
    SCORE_SETTINGS,
    TRAINING_SETTINGS,
    Config,
)
from a2net_tf.settings.conversion import from_dict, to_dict, to_flagfile
from a2net_tf.settings.help_text import help_asked_for
from a2net_tf.settings.keywords import parse_keywords
from a2net_tf.settings.setting import MODES
from a2net_tf.settings.trained import exported_settings, merge, refuse_changes, refuse_exported_changes

__all__ = [
    "EVALUATION_SETTINGS",
    "EXPORTED_SETTINGS",
    "FIELDS",
    "MODEL_SETTINGS",
    "MODES",
    "SCORE_SETTINGS",
    "TRAINING_SETTINGS",
    "Config",
    "check",
    "exported_settings",
    "from_dict",
    "help_asked_for",
    "merge",
    "parse",
    "parse_keywords",
    "refuse_changes",
    "refuse_exported_changes",
    "require",
    "to_dict",
    "to_flagfile",
]
