"""The errors a user can mend. The command line prints them without a traceback and exits with `code`."""


class TrialError(Exception):
    """Work could not be done: names the file or setting, what was found, what was expected, what to do."""

    code = 1


class SettingsError(TrialError):
    """A setting or a word on the command line is wrong."""

    code = 2


class Interrupted(TrialError):
    """Stopped by a signal; the run folder is whole and the same command resumes from there."""

    code = 75
