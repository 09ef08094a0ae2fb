"""Commands that answer: simulate, serve, ui."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, Any

import typer

from urbanwm.cli.app import CityName, Json, emit, prepare

BENTOML_TARGET = "serving.service:UrbanWM"


def simulate(
    city: CityName,
    horizon: Annotated[int, typer.Option(help="Hours ahead, 1 to 168.")] = 48,
    car_free: Annotated[
        float | None, typer.Option(help="Share of cars kept off the road, 0 to 1. Default: status quo.")
    ] = None,
    renewable: Annotated[
        float | None, typer.Option(help="Renewable share of generation, 0 to 1. Default: status quo.")
    ] = None,
    start: Annotated[str | None, typer.Option(help="First hour, ISO 8601 with offset. Default: now.")] = None,
    samples: Annotated[int, typer.Option(help="Ensemble members, 1 to 200.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the members.")] = 0,
    assumptions: Annotated[
        str, typer.Option(help="Preset name or YAML file of effect assumptions.")
    ] = "literature",
    refresh: Annotated[
        bool, typer.Option(help="Ask the registry for the champion even if one is cached.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Answer a "what if": baseline beside scenario, with an interval and who answered."""
    from urbanwm.contracts.scenario import Scenario, parse_strict

    body: dict[str, Any] = {
        "city": city,
        "horizon_hours": horizon,
        "start_time": start,
        "policy": {"car_free_ratio": car_free, "renewable_mix": renewable},
        "uncertainty_samples": samples,
        "seed": seed,
        "assumptions": _assumptions(assumptions),
    }
    scenario = parse_strict(Scenario, {key: value for key, value in body.items() if value is not None})
    settings = prepare()
    from urbanwm.answer import answer

    document = answer(scenario, settings, refresh=refresh)
    emit(document, as_json=as_json, text=_table(document))


def _assumptions(text: str) -> str | dict[str, Any]:
    """Read a YAML file of assumptions; anything else is the name of a preset."""
    if not text.endswith((".yaml", ".yml")):
        return text
    from urbanwm.assumptions import load_assumptions

    return load_assumptions(text, allow_path=True).model_dump(mode="json")


def _table(document: dict[str, Any]) -> str:
    """Lay an answer out for reading."""
    meta = document["meta"]
    who = meta["served_by"] + (f" version {meta['model_version']}" if meta["model_version"] else "")
    lines = [f"{document['city']} from {document['start']}: answered by {who}"]
    lines += [f"  note: {reason}" for reason in meta["reasons"]]
    lines.append(f"{'hour':<22}{'PM2.5 µg/m³':>14}{'energy MWh':>14}{'traffic':>10}")
    for row in document["simulated"]:
        values = [row["pm25"], row["energy_mwh"], row["traffic_index"]]
        shown = ["-" if value is None else f"{value:,.2f}" for value in values]
        lines.append(f"{row['timestamp'][:16]:<22}{shown[0]:>14}{shown[1]:>14}{shown[2]:>10}")
    for signal, effect in document["effect"].items():
        if effect is not None:
            lines.append(
                f"effect on {signal}: {effect['mean']:+.3g} {effect['unit']} "
                f"(90 % interval {effect['q05']:+.3g} to {effect['q95']:+.3g})"
            )
    return "\n".join(lines)


def serve(
    port: Annotated[int | None, typer.Option(help="TCP port. Default: URBANWM_PORT or 3000.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind, an IP. Default: 127.0.0.1.")] = None,
) -> None:
    """Serve the API and the dashboard in the foreground."""
    settings = prepare()
    from urbanwm.settings import replace_process

    arguments = [sys.executable, "-m", "bentoml", "serve", BENTOML_TARGET]
    replace_process([*arguments, "--host", host or settings.host, "--port", str(port or settings.port)])


def ui(
    mlflow_port: Annotated[int, typer.Option(help="TCP port of MLflow's pages.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="TCP port of Prefect's pages.")] = 4200,
) -> None:
    """Show MLflow's and Prefect's pages over our state, one worker each, until interrupted."""
    settings = prepare()
    mlflow = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    mlflow += ["--port", str(mlflow_port), "--backend-store-uri", settings.tracking_uri]
    mlflow += ["--default-artifact-root", settings.artifacts_dir.as_uri()]
    prefect = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    pages = [subprocess.Popen(mlflow), subprocess.Popen([*prefect, "--port", str(prefect_port)])]
    sys.stdout.write(f"MLflow http://127.0.0.1:{mlflow_port}  Prefect http://127.0.0.1:{prefect_port}\n")
    try:
        for page in pages:
            page.wait()
    finally:
        for page in pages:
            page.terminate()


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for function in (simulate, serve, ui):
        app.command()(function)
