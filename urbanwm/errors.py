"""The named failures of UrbanWM: what went wrong, in which field, and whether a retry can help."""

from __future__ import annotations

import math
from typing import Any, ClassVar


def _plain(value: object) -> object:
    """Turn a rejected value into something that JSON can carry."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)


class UrbanWMError(Exception):
    """Base of every error that UrbanWM raises on purpose.

    Attributes:
        message: One readable sentence.
        field: The name of the offending field, if one can be named.
        value: The value that was refused.
        allowed: What would have been accepted.
        retryable: Whether the same call can succeed later.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    default_retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, field: str | None = None, value: object = None, allowed: object = None
    ) -> None:
        """Keep the sentence and the three facts that make it actionable."""
        super().__init__(message)
        self.message = message
        self.field = field
        self.value = value
        self.allowed = allowed
        self.retryable = self.default_retryable

    def __str__(self) -> str:
        """Return the sentence, followed by the field, value and allowed values that it does not name yet."""
        parts = [self.message]
        if self.field is not None and self.field not in self.message:
            parts.append(f"field: {self.field}")
        if self.value is not None and str(self.value) not in self.message:
            parts.append(f"got: {self.value!r}")
        if self.allowed is not None and str(self.allowed) not in self.message:
            parts.append(f"allowed: {self.allowed}")
        return "; ".join(parts)

    def envelope(self) -> dict[str, Any]:
        """Return the error as the JSON document that the CLI and the service print."""
        error: dict[str, Any] = {"type": type(self).__name__, "message": str(self)}
        if self.field is not None:
            error["field"] = self.field
        if self.value is not None:
            error["value"] = _plain(self.value)
        if self.allowed is not None:
            error["allowed"] = self.allowed if isinstance(self.allowed, (list, dict)) else str(self.allowed)
        if self.retryable or isinstance(self, SourceError):
            error["retryable"] = self.retryable
        return {"error": error}


class BadInput(UrbanWMError):
    """The caller's value is wrong: the message names the field, the value and what is allowed."""

    exit_code = 2
    http_status = 422


class UnknownCity(BadInput):
    """No city file has this name."""

    http_status = 404


class DataUnavailable(UrbanWMError):
    """There is no data to answer from."""

    exit_code = 3
    http_status = 503


class SourceError(UrbanWMError):
    """An upstream did not give usable data; the subclass says why and whether to retry."""

    exit_code = 3
    http_status = 503

    def __init__(
        self,
        message: str,
        *,
        source: str = "",
        field: str | None = None,
        value: object = None,
        allowed: object = None,
    ) -> None:
        """Remember which upstream it was."""
        super().__init__(message, field=field, value=value, allowed=allowed)
        self.source = source

    def envelope(self) -> dict[str, Any]:
        """Return the JSON document, with the upstream's name."""
        document = super().envelope()
        if self.source:
            document["error"]["source"] = self.source
        return document


class RateLimited(SourceError):
    """The upstream asks for fewer requests."""

    default_retryable = True


class UpstreamUnavailable(SourceError):
    """The upstream is down, slow, or in maintenance."""

    default_retryable = True


class StaleData(SourceError):
    """The newest value is too old to be called current."""

    default_retryable = True


class NoData(SourceError):
    """The answer is valid and holds nothing for the question; data may appear later."""

    default_retryable = True


class KeyMissing(SourceError):
    """This source needs a key and none is configured."""


class KeyRefused(SourceError):
    """The upstream does not accept the key."""


class StationUnknown(SourceError):
    """The upstream does not know the station or zone."""


class StationTooFar(SourceError):
    """The nearest station is too far away to speak for the city."""


class MalformedPayload(SourceError):
    """The body is not what the upstream's format promises."""


class RequestRefused(SourceError):
    """The upstream calls the request itself wrong."""


class GateRefused(UrbanWMError):
    """The challenger was not proven better; nothing was promoted."""

    exit_code = 4
    http_status = 409


class BundleInvalid(UrbanWMError):
    """A model bundle is incomplete, altered, or answers its own example wrongly."""

    exit_code = 3
    http_status = 503


class LakeConflict(UrbanWMError):
    """Another writer kept winning; the batch was not written and can be offered again."""

    exit_code = 3
    http_status = 503
    default_retryable = True


class TrainingDiverged(UrbanWMError):
    """The loss or a gradient stopped being finite; the last good checkpoint is kept."""

    exit_code = 3


class InternalContractBroken(UrbanWMError):
    """A promise between two of our own parts was broken: a defect of UrbanWM."""
