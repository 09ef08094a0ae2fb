"""Changing the model in service: validated, under a lock, and safe to be killed at any line."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from urbanwm.errors import GateRefused, InternalContractBroken
from urbanwm.registry.store import Registry
from urbanwm.registry.versions import (
    CHALLENGER,
    CHAMPION,
    DECISION_TAG,
    PREDECESSOR_TAG,
    PREVIOUS,
    ModelVersion,
)

Validate = Callable[[Path], None]
"""Loads a bundle from a folder and runs its example; raises `BundleInvalid` where it must not serve."""

PROMOTED: Final = "promoted"
REFUSED: Final = "refused"
ROLLED_BACK: Final = "rolled back"


def promote(
    registry: Registry,
    version: str,
    *,
    validate: Validate,
    expected_champion: str | None,
    tags: Mapping[str, object] | None = None,
) -> ModelVersion:
    """Put `version` in service and keep the present champion as `previous`.

    The order makes every prefix of the steps harmless: the predecessor is noted on the newcomer first, then
    the champion alias moves in one database transaction, then `previous`; a rollback reads the note before
    the alias.

    Args:
        registry: Where the version is registered.
        version: The challenger.
        validate: Loads and smoke-tests the downloaded bundle.
        expected_champion: The champion that the decision was made against; None for none.
        tags: Noted on the version, such as who decided and why.

    Raises:
        BundleInvalid: The bundle is altered or cannot be loaded; nothing changed.
        GateRefused: The champion changed since the decision; nothing changed.
    """
    with registry.locked():
        present = registry.champion()
        if (present.version if present else None) != expected_champion:
            raise GateRefused(
                "the champion changed while the gate was deciding",
                field="champion",
                value=present.version if present else "none",
                allowed=expected_champion or "none",
            )
        if present is not None and present.version == version:
            return present
        newcomer = registry.version(version)
        _check_bundle(registry, newcomer, validate)
        _swap(registry, newcomer, present)
        registry.tag_version(version, {DECISION_TAG: PROMOTED, **(tags or {})})
        if CHALLENGER in newcomer.aliases:
            registry.delete_alias(CHALLENGER)
        return registry.version(version)


def rollback(
    registry: Registry, *, validate: Validate, reason: str, expected_champion: str | None = None
) -> ModelVersion:
    """Put the previous champion back in service; champion and previous change places.

    Args:
        registry: Where both are registered.
        validate: Loads and smoke-tests the bundle that is to serve.
        reason: Noted on the version that leaves.
        expected_champion: The version that is to leave; None: whichever serves.

    Raises:
        BundleInvalid: The previous bundle cannot be loaded; nothing changed.
        GateRefused: There is nothing to roll back to, or another version serves by now.
    """
    with registry.locked():
        present = registry.champion()
        if expected_champion is not None and (present is None or present.version != expected_champion):
            raise GateRefused(
                "another version serves by now",
                field="champion",
                value=present.version if present else "none",
                allowed=expected_champion,
            )
        target = predecessor(registry, present)
        if present is None or target is None:
            raise GateRefused("there is no previous champion to roll back to", field=PREVIOUS)
        _check_bundle(registry, target, validate)
        _swap(registry, target, present)
        registry.tag_version(present.version, {DECISION_TAG: f"{ROLLED_BACK}: {reason}"})
        registry.tag_version(target.version, {DECISION_TAG: PROMOTED})
        return registry.version(target.version)


def predecessor(registry: Registry, present: ModelVersion | None) -> ModelVersion | None:
    """Return who served before: the note on the champion, or the alias where the note is missing."""
    noted = present.tags.get(PREDECESSOR_TAG) if present else None
    if noted:
        return registry.version(noted)
    found = registry.previous()
    return None if found is None or (present and found.version == present.version) else found


def _check_bundle(registry: Registry, version: ModelVersion, validate: Validate) -> None:
    """Download the bundle as the service would, and run `validate` on it."""
    with tempfile.TemporaryDirectory(prefix="urbanwm-check-") as scratch:
        validate(registry.download(version, Path(scratch) / "bundle"))


def _swap(registry: Registry, newcomer: ModelVersion, present: ModelVersion | None) -> None:
    """Move the aliases, and read the champion back.

    Raises:
        InternalContractBroken: The registry does not say what was just written: someone ignores the lock.
    """
    if present is not None:
        registry.tag_version(newcomer.version, {PREDECESSOR_TAG: present.version})
    registry.set_alias(CHAMPION, newcomer.version)
    if present is not None:
        registry.set_alias(PREVIOUS, present.version)
    after = registry.champion()
    if after is None or after.version != newcomer.version:
        found = after.version if after else "none"
        raise InternalContractBroken(f"the champion is {found} right after {newcomer.version} was set")
