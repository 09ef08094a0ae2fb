"""The command line's frame: one app, one way to print, one way to fail."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

import orjson
import typer

from urbanwm.errors import BadInput, UrbanWMError

# Typer carries its own copy of click and exports only this exception's subclass.
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="urbanwm",
    help="A world model of a city: PM2.5, electricity and traffic, hour by hour, with honest what-ifs.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
CityName = Annotated[str, typer.Option("--city", "-c", help="Name of a city file.")]
CityNames = Annotated[
    list[str] | None,
    typer.Option(
        "--city", "-c", help="Name of a city file; repeat for several. Default: the nightly cities."
    ),
]


def emit(document: Mapping[str, Any], *, as_json: bool, text: str) -> None:
    """Print the JSON document, or the text for people."""
    if as_json:
        option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        sys.stdout.write(orjson.dumps(document, option=option, default=str).decode() + "\n")
    else:
        sys.stdout.write(text.rstrip("\n") + "\n")


def prepare() -> Any:  # noqa: ANN401 - typed at the call sites; importing Settings here would slow --help
    """Read the settings, point the frameworks at our state, and log to stderr."""
    from urbanwm.logs import configure_logging
    from urbanwm.settings import apply_environment, load_settings

    settings = load_settings()
    apply_environment(settings)
    configure_logging(settings.log_level)
    return settings


def city_names(names: list[str] | None, settings: Any) -> list[str]:  # noqa: ANN401
    """Return the cities asked for, by their proper names, or the nightly ones."""
    from urbanwm.cities import load_city, nightly_city_names

    if not names:
        return nightly_city_names(settings)
    split = [part for name in names for part in name.split(",") if part]
    return [load_city(name, settings).name for name in split]


def _fail(error: UrbanWMError, arguments: list[str]) -> NoReturn:
    """Print one readable line on stderr and, with --json, the envelope on stdout; leave with its code."""
    sys.stderr.write(f"urbanwm: {type(error).__name__}: {error}\n")
    if "--json" in arguments:
        sys.stdout.write(orjson.dumps(error.envelope(), default=str).decode() + "\n")
    sys.exit(error.exit_code)


def _offender(error: Exception) -> str | None:
    """Return the option that a usage error is about, if it names one."""
    parameter = getattr(error, "param", None)
    return getattr(parameter, "name", None) or getattr(error, "option_name", None)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    from urbanwm.cli import answers, data, models, nights

    for module in (data, models, nights, answers):
        module.register(app)
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(arguments, standalone_mode=False)
    except UrbanWMError as error:
        _fail(error, arguments)
    except UsageError as error:
        _fail(BadInput(error.format_message(), field=_offender(error)), arguments)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
