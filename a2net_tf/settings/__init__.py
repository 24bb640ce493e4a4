"""Every setting: its definition, its checks, its forms as flags, flagfile and dictionary."""

from a2net_tf.settings.checks import check, require
from a2net_tf.settings.command_line import parse, print_help
from a2net_tf.settings.config import EXPORTED_GROUPS, FIELDS, MODEL_GROUPS, MODES, TRAINING_GROUPS, Config
from a2net_tf.settings.conversion import from_dict, to_dict, to_flagfile
from a2net_tf.settings.keywords import parse_keywords
from a2net_tf.settings.trained import exported_settings, merge, refuse_changes, refuse_exported_changes

__all__ = [
    "EXPORTED_GROUPS",
    "FIELDS",
    "MODEL_GROUPS",
    "MODES",
    "TRAINING_GROUPS",
    "Config",
    "check",
    "exported_settings",
    "from_dict",
    "merge",
    "parse",
    "parse_keywords",
    "print_help",
    "refuse_changes",
    "refuse_exported_changes",
    "require",
    "to_dict",
    "to_flagfile",
]
