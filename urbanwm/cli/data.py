"""Commands about data: ingest, parse, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from urbanwm.cli.app import CityName, CityNames, Json, city_names, emit, prepare
from urbanwm.errors import BadInput

Time = Annotated[str | None, typer.Option(help="ISO 8601 time with offset, or a date (UTC midnight).")]


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
    """Fetch, archive, check and store the hours of one city; a re-run changes nothing."""
    settings = prepare()
    from urbanwm.cities import load_city
    from urbanwm.clock import parse_time
    from urbanwm.ingest import ingest_city

    report = ingest_city(
        load_city(city, settings),
        settings,
        start=parse_time(from_, "--from") if from_ else None,
        end=parse_time(to, "--to") if to else None,
        from_raw=from_raw,
    ).to_dict()
    lines = [
        (
            f"{report['city']}: {report['inserted']} rows new, {report['updated']} corrected, "
            f"lake version {report['version']}, data until {report['last_timestamp']}"
        )
    ]
    lines += [f"  {name}: {count} hours" for name, count in report["rows_by_signal"].items()]
    lines += [f"  dropped from {name}: {reasons}" for name, reasons in report["dropped"].items() if reasons]
    lines += [f"  failed: {e['source']} for {e['signal']}: {e['message']}" for e in report["errors"]]
    emit(report, as_json=as_json, text="\n".join(lines))


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


def doctor(city: CityNames = None, as_json: Json = False) -> None:
    """Show what is configured, which keys are present (never their value), and how fresh each signal is."""
    settings = prepare()
    from urbanwm.doctor import examine

    report = examine(settings, city_names(city, settings) if city else None)
    lines = [
        f"home      {report['home']}",
        f"lake      {report['lake']['uri']} version {report['lake']['version']}",
    ]
    lines.append(f"tracking  {report['tracking_uri']}")
    lines += [
        f"key       {name}: {'set' if present else 'not set'}" for name, present in report["keys"].items()
    ]
    for name, found in report["cities"].items():
        lines.append(f"{name}{' (simulated)' if found['simulated'] else ''}")
        for signal, state in found["signals"].items():
            age = f"{state['age_hours']:.0f} h old" if state["age_hours"] is not None else "no data"
            lines.append(f"  {signal:<24} {age:<12} from {', '.join(state['sources'])}")
    emit(report, as_json=as_json, text="\n".join(lines))


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for function in (ingest, parse, doctor):
        app.command()(function)
