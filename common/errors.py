"""The one exception for what a user can mend."""


class UserError(Exception):
    """A user's mistake: one sentence that says what to do; the program ends with exit code 2."""
