"""The one exception that means "the user can fix this"."""


class UserError(ValueError):
    """A mistake in a flag, a file or a key.

    The message is one line that names the flag, file or key and says what to do. Commands print it without a traceback
    and exit with code 2.
    """
