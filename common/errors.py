"""Mistakes that the user can fix."""


class UserError(Exception):
    """One sentence that says what to do; the program prints it and exits with code 2."""
