"""Progress of a long command: a bar on a terminal, one line per piece in a log, nothing with --json."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)` after each piece of work."""


@contextmanager
def shown_progress(*, silent: bool, stream: TextIO | None = None) -> Iterator[Progress | None]:
    """Yield what to call after each piece of work; None when nothing is to be shown.

    Args:
        silent: Show nothing.
        stream: Where to write; default: stderr, so that stdout stays the answer's.
    """
    stream = stream or sys.stderr
    if silent:
        yield None
    elif stream.isatty():
        from tqdm import tqdm

        with tqdm(total=None, unit="piece", file=stream, dynamic_ncols=True) as bar:

            def draw(what: str, done: int, total: int) -> None:
                bar.total = total
                bar.set_description_str(what, refresh=False)
                bar.update(done - bar.n)
                bar.refresh()

            yield draw
    else:
        yield lambda what, done, total: print(f"{done}/{total} {what}", file=stream, flush=True)
