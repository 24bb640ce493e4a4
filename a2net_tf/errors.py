"""The one exception for mistakes of the user: shown as one line, without a traceback, exit status 1."""


class UserError(ValueError):
    """Something the user can mend: the message names the file or setting, what was expected and what was found."""
