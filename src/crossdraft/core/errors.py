"""Errors that a user can mend: the command line prints them as one line and exits with code 2."""


class CrossdraftError(ValueError):
    """What is wrong, where, and what to do about it, in one line. Anything else that escapes is our own bug."""


class DataError(CrossdraftError):
    """A file or array that the user gave cannot be used: missing, truncated, hostile, unsorted, out of range."""


class CheckpointError(CrossdraftError):
    """A checkpoint cannot be used: missing or wrong-shaped keys, a pickle, NaN weights, an unknown kind."""


class SettingError(CrossdraftError):
    """A setting, or a combination of settings, that cannot work here."""


class MeasureError(CrossdraftError):
    """A figure that cannot be true, or that this data cannot give."""
