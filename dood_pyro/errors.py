"""The error that a user can mend."""


class UserError(Exception):
    """Something the user asked for cannot be done; the message says what is wrong and what to do.

    The command line prints the message on one line and exits with status 1.
    """
