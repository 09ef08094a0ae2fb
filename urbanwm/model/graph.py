"""The world model as two ONNX graphs, built node by node: one Scan each, any batch, any number of hours."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import nn

from urbanwm.errors import InternalContractBroken
from urbanwm.model.graph_builder import GraphBuilder
from urbanwm.model.latent import (
    LOGVAR_MAX,
    SMALLEST_UNIFORM,
    UNIMIX,
    CategoricalLatent,
    GaussianLatent,
    Latent,
)
from urbanwm.model.predictor import (
    ENERGY_FLOOR_MWH,
    ENERGY_SCALE_MWH,
    PM25_FLOOR_UGM3,
    PM25_SCALE_UGM3,
    TRAFFIC_MAX,
    Predictor,
    QuantilePredictor,
)
from urbanwm.model.world_model import INNOVATION_MAX, UrbanWorldModel

OPSET = 17
IR_VERSION = 9
BATCH, HOURS = "batch", "hours"


def rollout_graph(model: UrbanWorldModel) -> bytes:
    """Return the graph that imagines: `h, z, [known], action, [skip], noise` to `output, h_path, z_path`.

    Inputs the model does not have (known and skip of the reference) are left out. All tensors are float32
    and batch first; batch and hours are free. Noise zeros give the latent means.
    """
    dims, config, graph = model.dims, model.config, GraphBuilder("n")
    inputs = [_state("h", config.hidden_dim), _state("z", config.latent_dim), *_drive_inputs(model)]
    body = _body(model, model.rssm.prior_net, with_embedding=False)
    scanned = [_input_drive(model, graph), _noise(model, graph)]
    _, _, h_path, z_path = _scan(graph, body, ["h", "z"], scanned)
    output = _read_out(model, graph, graph.op("Concat", h_path, z_path, axis=-1))
    named = {"output": output, "h_path": h_path, "z_path": z_path}
    quantiles = (
        len(model.predictor.steps_to_quantiles[0]) if isinstance(model.predictor, QuantilePredictor) else 1
    )
    outputs = [
        _tensor("output", BATCH, HOURS, dims.targets, quantiles),
        _tensor("h_path", BATCH, HOURS, config.hidden_dim),
        _tensor("z_path", BATCH, HOURS, config.latent_dim),
    ]
    return _finish(graph, "rollout", inputs, outputs, named)


def filter_graph(model: UrbanWorldModel) -> bytes:
    """Return the graph that gives the belief at the origin, `h` and `z`, from the context.

    Urban: `observed, observed_mask, known, action, skip, noise` through the posterior. Reference: `observed`
    alone, whose last hour is encoded as z with h = 0.
    """
    dims, config, graph = model.dims, model.config, GraphBuilder("n")
    inputs = [_tensor("observed", BATCH, HOURS, dims.observed)]
    zeros_h, zeros_z = (_zeros(graph, width) for width in (config.hidden_dim, config.latent_dim))
    if config.kind == "reference":
        last = graph.op("Gather", "observed", graph.weight(np.array(-1, dtype=np.int64)), axis=1)
        named = {"h": zeros_h, "z": graph.sequential(model.encoder.net, last)}
    else:
        inputs += [_tensor("observed_mask", BATCH, HOURS, dims.observed), *_drive_inputs(model)]
        first = next(model.rssm.posterior_net.children())
        if not isinstance(first, nn.Linear):
            raise InternalContractBroken("the posterior does not begin with a linear layer")
        head_drive = graph.linear(_encode(model, graph), first.weight[:, config.hidden_dim :], first.bias)
        body = _body(model, model.rssm.posterior_net, with_embedding=True)
        scanned = [_input_drive(model, graph), _noise(model, graph), head_drive]
        h, z, _, _ = _scan(graph, body, [zeros_h, zeros_z], scanned)
        named = {"h": h, "z": z}
    outputs = [_state("h", config.hidden_dim), _state("z", config.latent_dim)]
    return _finish(graph, "filter", inputs, outputs, named)


def _body(model: UrbanWorldModel, head: nn.Sequential, *, with_embedding: bool) -> onnx.GraphProto:
    """Return one hour of the recurrence (see `recurrence`) as the body of a Scan."""
    D, Z, rssm, graph = model.config.hidden_dim, model.config.latent_dim, model.rssm, GraphBuilder("b")
    first, _, out = head.children()
    if not (isinstance(first, nn.Linear) and isinstance(out, nn.Linear)):
        raise InternalContractBroken("the head is not Linear, activation, Linear")
    cell = rssm.recurrent
    from_input = graph.op("Add", "drive_t", graph.product("z_in", cell.weight_ih[:, :Z]))
    from_hidden = graph.linear("h_in", cell.weight_hh, cell.bias_hh)
    input_gates, input_n = graph.split(from_input, 2 * D, D)
    hidden_gates, hidden_n = graph.split(from_hidden, 2 * D, D)
    reset, update = graph.split(graph.op("Sigmoid", graph.op("Add", input_gates, hidden_gates)), D, D)
    candidate = graph.op("Tanh", graph.op("Add", input_n, graph.op("Mul", reset, hidden_n)))
    difference = graph.op("Sub", "h_in", candidate)
    h = graph.op("Add", candidate, graph.op("Mul", update, difference))
    projected = graph.product(h, first.weight[:, :D])
    drive = "head_drive_t" if with_embedding else graph.weight(first.bias)
    head_in = graph.op("Add", projected, drive)
    hidden = graph.silu(head_in) if rssm.silu else graph.op("Relu", head_in)
    z = _draw(rssm.latent, graph, graph.linear(hidden, out.weight, out.bias))
    states = {"h_out": h, "z_out": z, "h_scan": h, "z_scan": z}
    graph.nodes += [helper.make_node("Identity", [value], [name]) for name, value in states.items()]
    widths = {"h_in": D, "z_in": Z, "drive_t": 3 * D, "noise_t": Z}
    if with_embedding:
        widths["head_drive_t"] = D
    inputs = [_state(name, width) for name, width in widths.items()]
    outputs = [_state(name, D if name.startswith("h") else Z) for name in states]
    return helper.make_graph(graph.nodes, "hour", inputs, outputs, graph.weights)


def _scan(graph: GraphBuilder, body: onnx.GraphProto, states: list[str], scanned: list[str]) -> list[str]:
    """Add the Scan over the hours; return final h, final z, and the two paths."""
    return graph.many(
        "Scan",
        [*states, *scanned],
        4,
        body=body,
        num_scan_inputs=len(scanned),
        scan_input_axes=[1] * len(scanned),
        scan_output_axes=[1, 1],
    )


def _input_drive(model: UrbanWorldModel, graph: GraphBuilder) -> str:
    """Project the known-ahead inputs of all hours for the GRU."""
    cell = model.rssm.recurrent
    joined = graph.op("Concat", "action", "known", axis=-1) if model.dims.known else "action"
    return graph.linear(joined, cell.weight_ih[:, model.config.latent_dim :], cell.bias_ih)


def _noise(model: UrbanWorldModel, graph: GraphBuilder) -> str:
    """Return the noise as far as it reaches the latents, as `Latent.drive` prepares it."""
    noise = graph.op("Mul", "noise", graph.weight(model.rssm.noise_scale))
    if isinstance(model.rssm.latent, GaussianLatent):
        return noise
    half = graph.weight(0.5)
    centred = graph.op("Erf", graph.op("Div", noise, graph.weight(math.sqrt(2.0))))
    uniform = graph.op("Add", half, graph.op("Mul", half, centred))
    bounds = graph.weight(SMALLEST_UNIFORM), graph.weight(1.0 - SMALLEST_UNIFORM)
    exponential = graph.op("Neg", graph.op("Log", graph.op("Clip", uniform, *bounds)))
    return graph.op("Reciprocal", exponential)


def _draw(latent: Latent, graph: GraphBuilder, raw: str) -> str:
    """Draw z from a head's output and the hour's noise, as `Latent.sample`."""
    if isinstance(latent, GaussianLatent):
        mean, logvar = graph.split(raw, latent.width, latent.width)
        clipped = graph.op("Clip", logvar, graph.weight(latent.logvar_min), graph.weight(LOGVAR_MAX))
        spread = graph.op("Exp", graph.op("Mul", clipped, graph.weight(0.5)))
        return graph.op("Add", mean, graph.op("Mul", "noise_t", spread))
    if not isinstance(latent, CategoricalLatent):
        raise InternalContractBroken(f"no ONNX form for latent {type(latent).__name__}")
    groups = graph.integers(0, latent.groups, latent.classes)
    softmax = graph.op("Softmax", graph.op("Reshape", raw, groups), axis=-1)
    mixed = graph.op("Mul", softmax, graph.weight(1.0 - UNIMIX))
    probabilities = graph.op("Add", mixed, graph.weight(UNIMIX / latent.classes))
    race = graph.op("Mul", probabilities, graph.op("Reshape", "noise_t", groups))
    winners = graph.op("ArgMax", race, axis=-1, keepdims=0)
    off_and_on = graph.weight([0.0, 1.0])
    one_hot = graph.op("OneHot", winners, graph.integers(latent.classes), off_and_on, axis=-1)
    return graph.op("Reshape", one_hot, graph.integers(0, latent.parameters))


def _encode(model: UrbanWorldModel, graph: GraphBuilder) -> str:
    """Join observation, mask and innovation (observation minus direct forecast, in usual errors); encode."""
    bounds = (graph.integers(0), graph.integers(model.dims.targets), graph.integers(2))
    observed, mask = (graph.op("Slice", name, *bounds) for name in ("observed", "observed_mask"))
    relative = graph.op("Div", graph.op("Sub", observed, _direct(model, graph)), _usual_error(model, graph))
    limits = (graph.weight(-INNOVATION_MAX), graph.weight(INNOVATION_MAX))
    innovation = graph.op("Clip", graph.op("Mul", relative, mask), *limits)
    joined = graph.op("Concat", "observed", "observed_mask", innovation, axis=-1)
    return graph.sequential(model.encoder.net, joined)


def _direct(model: UrbanWorldModel, graph: GraphBuilder) -> str:
    """Return the direct forecast `(batch, hours, 3)`."""
    return graph.op("Gather", "skip", graph.weight(np.array(model.dims.direct, dtype=np.int64)), axis=-1)


def _usual_error(model: UrbanWorldModel, graph: GraphBuilder) -> str:
    """Return the usual error of the direct forecast `(batch, hours, 3)`."""
    column = graph.weight(np.array(model.dims.log_error, dtype=np.int64))
    return graph.op("Exp", graph.op("Gather", "skip", column, axis=-1))


def _read_out(model: UrbanWorldModel, graph: GraphBuilder, states: str) -> str:
    """Read the forecast out of `[h, z]` of all hours."""
    raw = graph.sequential(model.predictor.net, states)
    if isinstance(model.predictor, Predictor):
        pm25, energy, traffic = graph.split(raw, 1, 1, 1)
        heads = (
            _affine(graph, graph.op("Softplus", pm25), PM25_SCALE_UGM3, PM25_FLOOR_UGM3),
            _affine(graph, graph.op("Softplus", energy), ENERGY_SCALE_MWH, ENERGY_FLOOR_MWH),
            _affine(graph, graph.op("Sigmoid", traffic), TRAFFIC_MAX, 0.0),
        )
        return graph.op("Unsqueeze", graph.op("Concat", *heads, axis=-1), graph.integers(-1))
    head = model.predictor
    steps, quantiles = head.steps_to_quantiles.shape
    raw = graph.linear(raw, head.out.weight, head.out.bias)
    raw = graph.op("Reshape", raw, graph.integers(0, 0, head.targets, quantiles))
    deviation, raw_steps = graph.split(raw, quantiles - steps, steps)
    spread = graph.op("MatMul", graph.op("Softplus", raw_steps), graph.weight(head.steps_to_quantiles))
    direct, usual_error = (
        graph.op("Unsqueeze", part, graph.integers(-1))
        for part in (_direct(model, graph), _usual_error(model, graph))
    )
    departure = graph.op("Sub", graph.op("Add", deviation, spread), graph.weight(head.start))
    kept = graph.op("Mul", departure, graph.weight(head.share.unsqueeze(-1)))
    relative = graph.op("Add", graph.weight(head.start), kept)
    return graph.op("Add", direct, graph.op("Mul", usual_error, relative))


def _affine(graph: GraphBuilder, x: str, scale: float, offset: float) -> str:
    return graph.op("Add", graph.op("Mul", x, graph.weight(scale)), graph.weight(offset))


def _zeros(graph: GraphBuilder, width: int) -> str:
    """Return zeros `(batch, width)` for the batch of `observed`."""
    batch = graph.op("Gather", graph.op("Shape", "observed"), graph.integers(0), axis=0)
    shape = graph.op("Concat", batch, graph.integers(width), axis=0)
    return graph.op("Expand", graph.weight(0.0), shape)


def _drive_inputs(model: UrbanWorldModel) -> list[onnx.ValueInfoProto]:
    """Return the inputs that both graphs of a model share."""
    dims = model.dims
    inputs = [
        _tensor("action", BATCH, HOURS, dims.action),
        _tensor("noise", BATCH, HOURS, model.config.latent_dim),
    ]
    if dims.known:
        inputs.append(_tensor("known", BATCH, HOURS, dims.known))
    if dims.skip:
        inputs.append(_tensor("skip", BATCH, HOURS, dims.targets, dims.skip))
    return inputs


def _state(name: str, width: int) -> onnx.ValueInfoProto:
    return _tensor(name, BATCH, width)


def _tensor(name: str, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _finish(
    graph: GraphBuilder,
    name: str,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    named: dict[str, str],
) -> bytes:
    """Name the results, check the model and serialise it."""
    graph.nodes += [helper.make_node("Identity", [value], [wanted]) for wanted, value in named.items()]
    built = helper.make_model(
        helper.make_graph(graph.nodes, name, inputs, outputs, graph.weights),
        producer_name="urbanwm",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(built, full_check=True)
    content: bytes = built.SerializeToString(deterministic=True)
    return content
