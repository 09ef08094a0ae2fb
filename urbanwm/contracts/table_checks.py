"""The checks of `contracts.tables`; apart from it because pandera would cost every start a quarter second."""

from __future__ import annotations

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaError, SchemaErrors

from urbanwm.contracts.signals import SIGNALS
from urbanwm.contracts.tables import BATCH_KEY, UTC_MICROSECONDS
from urbanwm.errors import InternalContractBroken

_TIME = {"dtype": UTC_MICROSECONDS}
_WHOLE_HOUR = pa.Check(lambda s: (s == s.dt.floor("h")).all(), error="timestamps start an hour")
_KNOWN_SIGNAL = pa.Check.isin(list(SIGNALS))
_FINITE = pa.Check(lambda s: s.abs().lt(float("inf")).all(), error="values are finite")

PARSED = pa.DataFrameSchema(
    {
        "timestamp": pa.Column(**_TIME, checks=_WHOLE_HOUR),
        "signal": pa.Column(str, _KNOWN_SIGNAL),
        "value": pa.Column(float, _FINITE),
        "flags": pa.Column(str),
        "available_at": pa.Column(**_TIME, nullable=True),
    },
    strict=True,
)

BATCH = pa.DataFrameSchema(
    {
        "city": pa.Column(str),
        "timestamp": pa.Column(**_TIME, checks=_WHOLE_HOUR),
        "signal": pa.Column(str, _KNOWN_SIGNAL),
        "value": pa.Column(float, _FINITE),
        "source": pa.Column(str),
        "available_at": pa.Column(**_TIME),
        "flags": pa.Column(str),
    },
    strict=True,
    unique=list(BATCH_KEY),
)


def validate(frame: pd.DataFrame, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Check a table between two of our own parts.

    Raises:
        InternalContractBroken: A column, type or key is wrong; this is a defect of ours, never absorbed.
    """
    try:
        return schema.validate(frame)
    except (SchemaError, SchemaErrors) as error:
        raise InternalContractBroken(f"table contract broken: {error}") from error
