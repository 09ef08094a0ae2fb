r"""`python -m benchmarks.skill`: train every forecaster on one record and score them on the same hours.

    python -m benchmarks.skill --data ../shared/data/madrid.parquet --split 2018-11-30T23:00:00Z \
        --timezone Europe/Madrid --country ES --subdivision MD --out /tmp/skill

Peers beyond NumPy and torch are the extra `skill` (`pip install -e '.[skill]'`); one that is not installed is
left out by name. `--add NAME=FILE` puts forecasts of `urbanwm backtest --out` or of another library beside
them. Written: one Parquet file per forecaster, `scores.csv` and `scores.md`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pandas as pd

from benchmarks.skill.direct import lightgbm, ridge
from benchmarks.skill.report import OURS, markdown, scores
from benchmarks.skill.task import HORIZON_HOURS, PeerMissing, Task, read_task
from urbanwm.evaluation.references import REFERENCES


def _gru(task: Task) -> pd.DataFrame:
    from benchmarks.skill.gru import gru

    return gru(task)


def _nhits(task: Task) -> pd.DataFrame:
    from benchmarks.skill.nhits import nhits

    return nhits(task)


PEERS: dict[str, Callable[[Task], pd.DataFrame]] = {
    "ridge": ridge,
    "lightgbm": lightgbm,
    "gru": _gru,
    "nhits": _nhits,
}


def main() -> None:
    """Run the forecasters that were asked for and print the scores."""
    chosen = _arguments()
    task = read_task(
        chosen.data, chosen.split, chosen.timezone, chosen.country, chosen.subdivision, chosen.end
    )
    print(
        f"{len(task.origins)} origins, {task.origins[0]:%Y-%m-%d} to {task.origins[-1]:%Y-%m-%d}", flush=True
    )
    forecasters: dict[str, Callable[[Task], pd.DataFrame]] = {
        name: lambda task, rule=rule: rule(task.city, task.frame, task.origins, HORIZON_HOURS)
        for name, rule in REFERENCES.items()
    }
    forecasters |= {name: PEERS[name] for name in chosen.peers}
    if chosen.experiment != "none":
        from benchmarks.skill.ours import ours

        forecasters[OURS] = lambda task: ours(task, chosen.experiment, chosen.bundle)
    tables = {name: pd.read_parquet(path) for name, path in chosen.add}
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, forecaster in forecasters.items():
        began = time.perf_counter()
        try:
            tables[name] = forecaster(task)
        except PeerMissing as reason:
            print(f"{name}: left out, {reason}", file=sys.stderr)
            continue
        tables[name].to_parquet(chosen.out / f"{name}.parquet", index=False)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    rows = scores(tables)
    rows.to_csv(chosen.out / "scores.csv", index=False)
    (chosen.out / "scores.md").write_text(markdown(rows), encoding="utf-8")
    print(markdown(rows))


def _arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True, help="Parquet; repeatable")
    parser.add_argument("--split", type=_time, required=True, help="end of training, ISO 8601 with an offset")
    parser.add_argument("--end", type=_time, help="end of the origins")
    parser.add_argument("--timezone", required=True, help="IANA zone of the city")
    parser.add_argument("--country", help="whose public holidays, such as ES")
    parser.add_argument("--subdivision", help="region of the country, such as MD")
    parser.add_argument("--peers", type=_peers, default=list(PEERS), help=f"of {','.join(PEERS)}, or none")
    parser.add_argument("--experiment", default="urban", help="our experiment; none leaves our model out")
    parser.add_argument("--bundle", type=Path, help="use this bundle of ours, trained on the same hours")
    parser.add_argument("--add", type=_named, action="append", default=[], help="NAME=FILE of forecasts")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/skill"), help="folder to write")
    return parser.parse_args()


def _time(text: str) -> datetime:
    """Read a time with an offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError("needs an offset, such as 2018-11-30T23:00:00Z")
    return moment


def _peers(text: str) -> list[str]:
    """Read a list of peers."""
    names = [] if text == "none" else text.split(",")
    unknown = set(names) - set(PEERS)
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no peer {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}"
        )
    return names


def _named(text: str) -> tuple[str, Path]:
    """Read NAME=FILE."""
    name, found, path = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError("should be NAME=FILE")
    return name, Path(path)


if __name__ == "__main__":
    main()
