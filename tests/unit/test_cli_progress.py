"""Progress of a long command: a bar on a terminal, lines in a log, nothing when silent."""

from __future__ import annotations

import io

from urbanwm.cli.data import _gap_lines
from urbanwm.cli.progress import shown_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_line_per_piece():
    stream = io.StringIO()
    with shown_progress(silent=False, stream=stream) as progress:
        progress("pm25 from openaq", 1, 2)
        progress("pm25 from openaq", 2, 2)
    assert stream.getvalue() == "1/2 pm25 from openaq\n2/2 pm25 from openaq\n"


def test_a_terminal_gets_a_bar_that_ends_with_its_line():
    stream = Terminal()
    with shown_progress(silent=False, stream=stream) as progress:
        progress("pm25 from openaq", 1, 4)
        progress("energy_mwh from eia", 4, 4)
    shown = stream.getvalue()
    assert "4/4" in shown
    assert "energy_mwh from eia" in shown
    assert shown.endswith("\n")


def test_silence_is_silent():
    stream = Terminal()
    with shown_progress(silent=True, stream=stream) as progress:
        assert progress is None
    assert stream.getvalue() == ""


def line(signal: str, values: int, first: str | None) -> dict:
    return {
        "signal": signal,
        "values": values,
        "coverage": values / 100,
        "gaps": 1,
        "first": first,
        "last": first,
    }


def test_the_gap_report_names_what_is_incomplete_and_the_longest_gaps():
    record = {
        "hours": 100,
        "start": "2025-01-01T00:00:00+00:00",
        "end": "2025-01-05T04:00:00+00:00",
        "signals": [
            line("pm25", 90, "2025-01-01T00:00:00"),
            line("no2", 0, None),
            line("energy_mwh", 100, "x"),
        ],
        "gaps": [{"signal": "pm25", "hours": 10, "start": "2025-01-02T00:00:00+00:00"}],
    }
    text = "\n".join(_gap_lines(record))
    assert "pm25" in text
    assert "90.00%" in text
    assert "no value at all" in text
    assert "10 h from 2025-01-02T00:00" in text
    assert "energy_mwh" not in text
    assert _gap_lines(None) == ["no hours in this window"]
