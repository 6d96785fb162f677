"""What somebody may have meant by a word that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(wrong: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown word: the nearest of the known ones, and all of them."""
    words = list(known)
    near = difflib.get_close_matches(wrong, words, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{hint} (known: {', '.join(words)})" if words else ""
