"""What is wrong with the use of a layer."""


class NormError(ValueError):
    """A layer cannot be made or used in this way; the message names what to change."""
