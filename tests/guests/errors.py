"""What can go wrong while a guest is made."""


class GuestError(Exception):
    """A sentence that says what is missing or went wrong."""
