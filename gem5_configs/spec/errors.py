"""The error that a user can do something about."""


class SpecError(Exception):
    """An option, a file or a parameter is not what it must be; the message names it and says what is expected."""
