"""A model bundle: a folder that answers without torch, verified before it is believed, free of pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from urbanwm.errors import BadInput, BundleInvalid, InternalContractBroken
from urbanwm.features import FeatureSpec, Windows
from urbanwm.model.bundle_files import CARD, DIRECT, EXAMPLE, FILTER, ROLLOUT, read_bundle_files, read_example
from urbanwm.model.config import parse_experiment
from urbanwm.model.direct_file import read_direct

PARITY: Final = 1e-5
"""Largest difference to the stored answer, relative to max(1, |answer|)."""

ROWS_PER_RUN: Final = 64
"""Rows imagined together: more do not get faster (their states leave the cache), and take more memory."""

Float = NDArray[np.float32]


class Imagined(NamedTuple):
    """A rollout: `output (B, H, 3, Q)`, normalised (reference: raw, Q = 1), h `(B, H, D)`, z `(B, H, Z)`."""

    output: Float
    h: Float
    z: Float


class Bundle:
    """A loaded bundle: spec, calibration, assumptions, provenance, and the two graphs.

    Thread-safe: `filter` and `imagine` may be called concurrently; each call computes on one thread.

    Attributes:
        spec: What the inputs mean and how they are scaled.
        experiment: The experiment's document.
        calibration: For `urbanwm.calibration.apply_calibration`, fitted at zero noise.
        assumptions: The policy-effect preset that the model was released with.
        provenance: Data, code and run that it came from.
        digest: SHA-256 of the manifest, which holds the checksums of everything else.
    """

    spec: FeatureSpec
    experiment: dict[str, Any]
    calibration: dict[str, Any]
    assumptions: dict[str, Any]
    provenance: dict[str, Any]
    digest: str
    card: str | None

    def __init__(self, manifest: Mapping[str, Any], contents: Mapping[str, bytes], digest: str) -> None:
        """Build from verified contents; use `Bundle.load`."""
        self.experiment = dict(manifest["experiment"])
        self.calibration = dict(manifest["calibration"])
        self.assumptions = dict(manifest["assumptions"])
        self.provenance = dict(manifest["provenance"])
        self.digest = digest
        self.card = contents[CARD].decode("utf-8", "replace") if CARD in contents else None
        try:
            model = parse_experiment(self.experiment).model
            spec = FeatureSpec.from_dict(manifest["spec"])
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise BundleInvalid(f"the bundle's experiment or feature spec cannot be read: {error}") from error
        self.spec = replace(spec, direct=read_direct(contents[DIRECT], spec))
        self._widths = {"h": model.hidden_dim, "z": model.latent_dim}
        self._example = contents[EXAMPLE]
        self._filter = _session(contents[FILTER], FILTER)
        self._rollout = _session(contents[ROLLOUT], ROLLOUT)
        self._require_widths()

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Read and verify a bundle; nothing unverified is interpreted.

        Args:
            path: Its folder: exactly the expected files, no links, no others.

        Raises:
            BundleInvalid: A file is missing, unknown, altered or of another format.
        """
        return cls(*read_bundle_files(path))

    def filter(self, windows: Windows, noise: Float | None = None) -> tuple[Float, Float]:
        """Return the belief at the origin, h `(B, D)` and z `(B, Z)`.

        Args:
            windows: Context hours and, ignored here, horizon hours.
            noise: Standard normal `(B, C, Z)`; None = the latent means. Without effect on the reference.
        """
        hours = slice(0, windows.context_hours)
        if windows.context_hours < 1:
            raise InternalContractBroken(
                "a window without context has no belief", field="context_hours", value=0
            )
        feeds = {
            "observed": windows.observed[:, hours],
            "observed_mask": windows.observed_mask[:, hours],
            "known": windows.known[:, hours],
            "action": windows.action[:, hours],
            "skip": windows.skip[:, hours],
            "noise": self._noise(noise, len(windows), windows.context_hours),
        }
        h, z = _run(self._filter, feeds, ["h", "z"])
        return h, z

    def imagine(
        self, h: Float, z: Float, known: Float, action: Float, skip: Float, noise: Float | None = None
    ) -> Imagined:
        """Roll the prior forward from h, z over the H hours of `known`, `action` and `skip`.

        Args:
            h: `(B, D)`.
            z: `(B, Z)`.
            known: `(B, H, K)`.
            action: `(B, H, A)`.
            skip: `(B, H, 3, J)`.
            noise: Standard normal `(B, H, Z)`; None = the latent means.
        """
        feeds = self._rollout_feeds(h, z, known, action, skip, noise)
        return Imagined(*_run_in_parts(self._rollout, feeds, ["output", "h_path", "z_path"]))

    def imagine_outputs(
        self, h: Float, z: Float, known: Float, action: Float, skip: Float, noise: Float | None = None
    ) -> Float:
        """Return only the output `(B, H, 3, Q)` of `imagine`: for thousands of policies at once.

        The working memory is that of `ROWS_PER_RUN` rows. Inputs that all rows share may be views that repeat
        one row (`np.broadcast_to`): they are copied a part at a time.
        """
        (output,) = _run_in_parts(
            self._rollout, self._rollout_feeds(h, z, known, action, skip, noise), ["output"]
        )
        return output

    def _rollout_feeds(
        self, h: Float, z: Float, known: Float, action: Float, skip: Float, noise: Float | None
    ) -> dict[str, Float]:
        return {
            "h": h,
            "z": z,
            "known": known,
            "action": action,
            "skip": skip,
            "noise": self._noise(noise, *action.shape[:2]),
        }

    def smoke_test(self) -> None:
        """Answer the stored example and compare with the stored answer of the trained network.

        Raises:
            BundleInvalid: The answer differs by more than `PARITY` or is not finite.
        """
        example = read_example(self._example)
        windows = Windows(
            **{name: example[name] for name in ("observed", "observed_mask", "known", "action", "skip")},
            target=np.zeros((*example["skip"].shape[:3],), np.float32),
            target_mask=np.zeros((*example["skip"].shape[:3],), np.float32),
            hourly=np.zeros((*example["skip"].shape[:2], 0), np.float32),
            usual=np.ones(example["skip"].shape[:2], np.float32),
            local_hour=np.zeros(example["skip"].shape[:2], np.int64),
            city_index=np.zeros(len(example["observed"]), dtype=np.int64),
            context_hours=int(example["context_hours"]),
        )
        context, ahead = slice(0, windows.context_hours), slice(windows.context_hours, None)
        noise = example["noise"]
        h, z = self.filter(windows, noise[:, context])
        path = self.imagine(
            h, z, windows.known[:, ahead], windows.action[:, ahead], windows.skip[:, ahead], noise[:, ahead]
        )
        answers = {"h": h, "z": z, "output": path.output, "h_path": path.h, "z_path": path.z}
        for name, answer in answers.items():
            expected = example[f"expected_{name}"]
            if answer.shape != expected.shape:
                raise BundleInvalid(f"the example's {name} has another shape", field=name, value=answer.shape)
            worst = float(np.max(np.abs(answer - expected) / np.maximum(1.0, np.abs(expected))))
            if not worst <= PARITY:
                raise BundleInvalid(
                    f"the example's {name} is answered wrongly", field=name, value=worst, allowed=PARITY
                )

    def _noise(self, noise: Float | None, batch: int, hours: int) -> Float:
        if noise is None:
            return np.broadcast_to(np.float32(0.0), (batch, hours, self._widths["z"]))
        return noise

    def _require_widths(self) -> None:
        """Refuse graphs whose inputs do not have the spec's widths."""
        expected = {
            "observed": self.spec.observed_dim,
            "observed_mask": self.spec.observed_dim,
            "known": self.spec.known_dim,
            "action": self.spec.action_dim,
            "skip": self.spec.skip_dim,
            "noise": self._widths["z"],
            **self._widths,
        }
        for session in (self._filter, self._rollout):
            for node in session.get_inputs():
                if node.shape[-1] != expected.get(node.name):
                    raise BundleInvalid(
                        f"input {node.name} of a graph does not fit the feature spec",
                        field=node.name,
                        value=node.shape[-1],
                        allowed=expected.get(node.name),
                    )


def _session(content: bytes, name: str) -> onnxruntime.InferenceSession:
    """Open a graph on one CPU thread: scale by processes, not by threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        raise BundleInvalid(f"{name} is not a graph that can be run: {error}", field=name) from error


def _run_in_parts(
    session: onnxruntime.InferenceSession, feeds: Mapping[str, Float], outputs: list[str]
) -> list[Float]:
    """Run a graph on `ROWS_PER_RUN` rows at a time and put the results together."""
    rows = len(next(iter(feeds.values())))
    if rows <= ROWS_PER_RUN:
        return _run(session, feeds, outputs)
    whole: list[Float] = []
    for begin in range(0, rows, ROWS_PER_RUN):
        part = slice(begin, begin + ROWS_PER_RUN)
        results = _run(session, {name: feed[part] for name, feed in feeds.items()}, outputs)
        whole = whole or [np.empty((rows, *result.shape[1:]), np.float32) for result in results]
        for target, result in zip(whole, results, strict=True):
            target[part] = result
    return whole


def _run(
    session: onnxruntime.InferenceSession, feeds: Mapping[str, Float], outputs: list[str]
) -> list[Float]:
    """Run a graph on those feeds that it takes."""
    taken = {
        node.name: np.ascontiguousarray(feeds[node.name], dtype=np.float32) for node in session.get_inputs()
    }
    results: list[Float] = session.run(outputs, taken)
    return results
