"""Commands about data: ingest, parse, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from urbanwm.cli.app import CityName, CityNames, Json, city_names, emit, prepare
from urbanwm.errors import BadInput, DataUnavailable

GAPS_SHOWN = 10


def ingest(
    city: CityName,
    from_: Annotated[
        str | None, typer.Option("--from", help="First hour: ISO 8601 with offset, or a date (UTC).")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="End, exclusive: ISO 8601 with offset, or a date.")
    ] = None,
    from_raw: Annotated[
        bool, typer.Option("--from-raw", help="Rebuild from the raw archive, without the network.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch, archive, check and store the hours of one city; a re-run asks only for what is missing.

    With --from the history is filled month by month; stopped at any moment, the same command goes on there.
    """
    settings = prepare()
    from urbanwm.cities import load_city
    from urbanwm.cli.progress import shown_progress
    from urbanwm.clock import parse_time
    from urbanwm.ingest import ingest_city

    place = load_city(city, settings)
    start = parse_time(from_, "--from") if from_ else None
    end = parse_time(to, "--to") if to else None
    with shown_progress(silent=as_json) as progress:
        report = ingest_city(
            place, settings, start=start, end=end, from_raw=from_raw, progress=progress
        ).to_dict()
    report["record"] = _record(place, settings, start, end)
    lines = [
        (
            f"{report['city']}: {report['inserted']} rows new, {report['updated']} corrected, "
            f"lake version {report['version']}, data until {report['last_timestamp']}"
        )
    ]
    lines += [f"  {name}: {count} hours" for name, count in report["rows_by_signal"].items()]
    lines += [f"  dropped from {name}: {reasons}" for name, reasons in report["dropped"].items() if reasons]
    lines += [f"  failed: {e['source']} for {e['signal']}: {e['message']}" for e in report["errors"]]
    lines += _gap_lines(report["record"])
    emit(report, as_json=as_json, text="\n".join(lines))


def _record(city: Any, settings: Any, start: Any, end: Any) -> dict[str, Any] | None:  # noqa: ANN401
    """Return what the lake holds of the hours asked for and which are missing; None when it has none."""
    import pandas as pd

    from urbanwm.quality import quality_report
    from urbanwm.stores import lake_of

    lake = lake_of(settings)
    try:
        frame = lake.read(city.name, start=start, end=end, signals=list(city.signals))
    except DataUnavailable:
        return None
    first = frame.index[0] if start is None else pd.Timestamp(start).floor("h")
    hours = pd.date_range(first, frame.index[-1], freq="h", name=frame.index.name)
    return quality_report(frame.reindex(hours), city=city.name)


def _gap_lines(record: dict[str, Any] | None) -> list[str]:
    """Return the gap report for reading: coverage per signal, then the longest gaps."""
    if record is None:
        return ["no hours in this window"]
    lines = [f"record: {record['hours']} hours from {record['start'][:16]} to {record['end'][:16]} UTC"]
    incomplete = [line for line in record["signals"] if line["values"] < record["hours"]]
    for line in incomplete:
        since = f"from {line['first'][:16]} to {line['last'][:16]}" if line["first"] else "no value at all"
        lines.append(
            f"  {line['signal']:<24} {line['coverage']:7.2%} of the hours, {line['gaps']} gaps, {since}"
        )
    shown = record["gaps"][:GAPS_SHOWN]
    if shown:
        lines.append("longest gaps:")
    lines += [f"  {gap['signal']:<24} {gap['hours']:6} h from {gap['start'][:16]}" for gap in shown]
    return lines if incomplete else [*lines, "  every signal has every hour"]


def parse(
    file: Annotated[Path, typer.Argument(help="A recorded upstream answer.")],
    source: Annotated[str, typer.Option("--source", "-s", help="Which source it came from.")],
    status: Annotated[int, typer.Option(help="HTTP status it came with.")] = 200,
    received_at: Annotated[
        str | None, typer.Option("--received-at", help="When it was received, ISO 8601. Default: now.")
    ] = None,
    near: Annotated[
        str | None, typer.Option("--near", help="LAT,LON of the city, degrees; checks the distance.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="KEY=VALUE of the source's configuration.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a recorded answer means: its rows, what was dropped and why, or the named error."""
    from urbanwm.clock import parse_time, utc_now
    from urbanwm.sources import parse_recorded

    try:
        body = file.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}", field="file", value=str(file)) from None
    latitude, longitude = _place(near)
    document = parse_recorded(
        source,
        body,
        received_at=parse_time(received_at, "--received-at") if received_at else utc_now(),
        status=status,
        latitude=latitude,
        longitude=longitude,
        options=dict(_pair(item) for item in option or []),
        file_name=str(file),
    )
    lines = [
        f"{row['timestamp']}  {row['signal']:<24} {row['value']:>12.4f}  {','.join(row['flags'])}"
        for row in document["rows"]
    ]
    lines.append(f"{len(document['rows'])} rows; dropped: {document['dropped'] or 'none'}")
    emit(document, as_json=as_json, text="\n".join(lines))


def _place(near: str | None) -> tuple[float | None, float | None]:
    """Read LAT,LON."""
    if near is None:
        return None, None
    try:
        latitude, longitude = (float(part) for part in near.split(","))
    except ValueError:
        latitude = longitude = float("nan")
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise BadInput(
            "--near is not a place",
            field="--near",
            value=near,
            allowed="LAT,LON in degrees, such as 40.42,-3.70",
        )
    return latitude, longitude


def _pair(item: str) -> tuple[str, Any]:
    """Read KEY=VALUE."""
    key, equals, value = item.partition("=")
    if not equals:
        raise BadInput("--option is not KEY=VALUE", field="--option", value=item, allowed="KEY=VALUE")
    return key, value


def doctor(
    city: CityNames = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no source, use no network.")] = False,
    as_json: Json = False,
) -> int:
    """Show which sources answer, which keys are set (never their value), and how fresh each signal is.

    The sources of the cities named, or of the nightly ones, are asked one short question each. Exit code 3:
    something that such a city needs is not reachable.
    """
    settings = prepare()
    from urbanwm.doctor import examine

    names = city_names(city, settings)
    report = examine(settings, names if city else None, probe=() if offline else names)
    emit(report, as_json=as_json, text="\n".join(_doctor_lines(report)))
    return 0 if report["ok"] else DataUnavailable.exit_code


def _doctor_lines(report: dict[str, Any]) -> list[str]:
    """Lay the doctor's report out for reading."""
    disk, lake, registry = report["disk"], report["lake"], report["registry"]
    lines = [
        f"home      {report['home']} ({disk['free_gb']:.0f} GB free)",
        f"lake      {lake['uri']} version {lake['version']}",
        f"tracking  {report['tracking_uri']}",
        f"champion  {registry['champion'] or 'none'}, in the cache {registry['cached_champion'] or 'none'}",
    ]
    lines += [
        f"key       {name}: {'set' if present else 'not set'}" for name, present in report["keys"].items()
    ]
    for name, found in report["cities"].items():
        lines.append(f"{name}{' (simulated)' if found['simulated'] else ''}")
        states = {(probe["signal"], probe["label"]): probe for probe in found.get("probes", ())}
        for signal, state in found["signals"].items():
            age = f"{state['age_hours']:.0f} h old" if state["age_hours"] is not None else "no data"
            sources = [_source_text(label, states.get((signal, label))) for label in state["sources"]]
            lines.append(f"  {signal:<24} {age:<12} from {', '.join(sources)}")
    lines += [f"problem   {problem}" for problem in report["problems"]]
    return lines


def _source_text(label: str, probe: dict[str, Any] | None) -> str:
    """Return a source with how it answered."""
    if probe is None:
        return label
    if probe["state"] in ("answers", "empty"):
        return f"{label} ({probe['state']}, {probe['seconds']:.1f} s)"
    return f"{label} ({probe['error']['type']})"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for function in (ingest, parse, doctor):
        app.command()(function)
