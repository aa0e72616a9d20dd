"""Object storage for pictures."""


class PictureStore:
    """Pictures answered by url."""
