"""Opening a GGUF with the gguf package, with errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class GgufFileError(ValueError):
    """The file is no GGUF that can be read; the text names it."""


def open_gguf(path: Path) -> Any:
    """A `gguf.GGUFReader` on the file. Raises GgufFileError when it is damaged, OSError when it cannot be opened."""
    import gguf

    try:
        return gguf.GGUFReader(path)
    except OSError:
        raise
    except Exception as err:
        # The package lets parse failures out as whatever they happen to be (ValueError, IndexError, KeyError ...).
        raise GgufFileError(f"{path}: not a readable GGUF: {type(err).__name__}: {err}") from err
