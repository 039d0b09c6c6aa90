"""What is wrong with a file, and where: every reader here reports in this form."""

import pathlib


class Damage(Exception):
    """Bytes that are not what docs/formats.md says. Raised, or kept in a list where reading can go on."""

    def __init__(self, path: pathlib.Path | str, offset: int, what: str):
        super().__init__(f"{path}: offset {offset}: {what}")
        self.path = path
        self.offset = offset
        self.what = what
