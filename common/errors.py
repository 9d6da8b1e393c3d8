"""The exception for mistakes the user can fix."""


class UserError(Exception):
    """A one-sentence message that says what to do; the program prints it and exits with code 2."""
