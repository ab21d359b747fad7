"""The errors of making a guest."""


class GuestError(Exception):
    """A guest cannot be made; the text is a sentence with the reason."""
