"""The world model as two ONNX graphs, built node by node: any batch, any number of hours.

Each has one Scan over the hours, for the recurrence; the rollout has another over the rows, for its read-out.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import torch
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
    scanned = [_known_ahead(model, graph), _noise(model, graph)]
    _, _, *by_hour = _scan(graph, body, ["h", "z"], scanned)
    h_path, z_path = (graph.swap_batch_and_hours(values) for values in by_hour)
    named = {"output": _read_out(model, graph, h_path, z_path), "h_path": h_path, "z_path": z_path}
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
        body = _body(model, model.rssm.posterior_net, with_embedding=True)
        scanned = [_known_ahead(model, graph), _noise(model, graph), _encode(model, graph)]
        h, z = _scan(graph, body, [zeros_h, zeros_z], scanned)
        named = {"h": h, "z": z}
    outputs = [_state("h", config.hidden_dim), _state("z", config.latent_dim)]
    return _finish(graph, "filter", inputs, outputs, named)


def _body(model: UrbanWorldModel, head: nn.Sequential, *, with_embedding: bool) -> onnx.GraphProto:
    """Return one hour of the recurrence (see `recurrence`) as the body of a Scan.

    Every gate is a product of its own, so that nothing has to be cut: copies cost more here than smaller
    products. The gates' biases are weights of a one that stands beside what is known ahead: so the gates
    need none added, and the candidate's product has room to add what it keeps of h. Imagining, the body
    also hands out h and z for the read-out.
    """
    D, Z, rssm, graph = model.config.hidden_dim, model.config.latent_dim, model.rssm, GraphBuilder("b")
    first, _, out = head.children()
    if not (isinstance(first, nn.Linear) and isinstance(out, nn.Linear)):
        raise InternalContractBroken("the head is not Linear, activation, Linear")
    cell = rssm.recurrent
    told = graph.op("Concat", "z_in", "known_ahead_t", axis=-1)
    everything = graph.op("Concat", told, "h_in", axis=-1)
    bias = torch.cat([cell.bias_ih[: 2 * D] + cell.bias_hh[: 2 * D], cell.bias_ih[2 * D :]])
    of_told = torch.cat([cell.weight_ih, bias.unsqueeze(-1)], dim=-1)
    gates = torch.cat([of_told, cell.weight_hh], dim=-1)[: 2 * D].chunk(2)
    reset, update = (graph.op("Sigmoid", graph.linear(everything, gate)) for gate in gates)
    hidden_n = graph.linear("h_in", cell.weight_hh[2 * D :], cell.bias_hh[2 * D :])
    kept_n = graph.op("Mul", reset, hidden_n)
    candidate = graph.op("Tanh", graph.linear(told, of_told[2 * D :], kept_n))
    difference = graph.op("Sub", "h_in", candidate)
    h = graph.op("Add", candidate, graph.op("Mul", update, difference))
    seen = graph.op("Concat", h, "embedding_t", axis=-1) if with_embedding else h
    head_in = graph.linear(seen, first.weight, first.bias)
    z = _draw(rssm.latent, graph, graph.silu(head_in) if rssm.silu else graph.op("Relu", head_in), out)
    widths = {"h_in": D, "z_in": Z, "known_ahead_t": model.dims.action + model.dims.known + 1, "noise_t": Z}
    outputs = {"h_out": (h, D), "z_out": (z, Z)}
    if with_embedding:
        widths["embedding_t"] = Z
    else:
        outputs |= {"h_t": (graph.op("Identity", h), D), "z_t": (graph.op("Identity", z), Z)}
    for name, (value, _) in outputs.items():
        graph.call(value, name)
    return helper.make_graph(
        graph.nodes,
        "hour",
        [_state(name, width) for name, width in widths.items()],
        [_state(name, width) for name, (_, width) in outputs.items()],
        graph.weights,
    )


def _scan(graph: GraphBuilder, body: onnx.GraphProto, states: list[str], scanned: list[str]) -> list[str]:
    """Add a Scan over what comes first in all that it scans; return what the body hands out."""
    inputs = [*states, *scanned]
    return graph.many("Scan", inputs, len(body.output), body=body, num_scan_inputs=len(scanned))


def _known_ahead(model: UrbanWorldModel, graph: GraphBuilder) -> str:
    """Return the GRU's input beside z, and a one for its biases, hours first."""
    one_each = graph.op("Concat", graph.op("Shape", "action", end=2), graph.integers(1), axis=0)
    ones = graph.op("Expand", graph.weight(1.0), one_each)
    known = ["action", "known"] if model.dims.known else ["action"]
    return graph.swap_batch_and_hours(graph.op("Concat", *known, ones, axis=-1))


def _noise(model: UrbanWorldModel, graph: GraphBuilder) -> str:
    """Return the noise as far as it reaches the latents, as `Latent.drive` prepares it, hours first."""
    noise = graph.swap_batch_and_hours("noise")
    if model.rssm.noise_scale != 1.0:
        noise = graph.op("Mul", noise, graph.weight(model.rssm.noise_scale))
    if isinstance(model.rssm.latent, GaussianLatent):
        return noise
    half = graph.weight(0.5)
    centred = graph.op("Erf", graph.op("Div", noise, graph.weight(math.sqrt(2.0))))
    uniform = graph.op("Add", half, graph.op("Mul", half, centred))
    bounds = graph.weight(SMALLEST_UNIFORM), graph.weight(1.0 - SMALLEST_UNIFORM)
    exponential = graph.op("Neg", graph.op("Log", graph.op("Clip", uniform, *bounds)))
    return graph.op("Reciprocal", exponential)


def _draw(latent: Latent, graph: GraphBuilder, hidden: str, out: nn.Linear) -> str:
    """Draw z from a head's hidden layer and the hour's noise, as `Latent.sample`."""
    if isinstance(latent, GaussianLatent):
        (mean_weight, logvar_weight), (mean_bias, logvar_bias) = out.weight.chunk(2), out.bias.chunk(2)
        half_logvar = graph.linear(hidden, 0.5 * logvar_weight, 0.5 * logvar_bias)
        bounds = graph.weight(0.5 * latent.logvar_min), graph.weight(0.5 * LOGVAR_MAX)
        spread = graph.op("Exp", graph.op("Clip", half_logvar, *bounds))
        mean = graph.linear(hidden, mean_weight, mean_bias)
        return graph.op("Add", mean, graph.op("Mul", "noise_t", spread))
    if not isinstance(latent, CategoricalLatent):
        raise InternalContractBroken(f"no ONNX form for latent {type(latent).__name__}")
    raw, groups = (
        graph.linear(hidden, out.weight, out.bias),
        graph.integers(0, latent.groups, latent.classes),
    )
    softmax = graph.op("Softmax", graph.op("Reshape", raw, groups), axis=-1)
    mixed = graph.op("Mul", softmax, graph.weight(1.0 - UNIMIX))
    probabilities = graph.op("Add", mixed, graph.weight(UNIMIX / latent.classes))
    race = graph.op("Mul", probabilities, graph.op("Reshape", "noise_t", groups))
    winners = graph.op("ArgMax", race, axis=-1, keepdims=0)
    off_and_on = graph.weight([0.0, 1.0])
    one_hot = graph.op("OneHot", winners, graph.integers(latent.classes), off_and_on, axis=-1)
    return graph.op("Reshape", one_hot, graph.integers(0, latent.parameters))


def _encode(model: UrbanWorldModel, graph: GraphBuilder) -> str:
    """Join observation, mask and innovation (observation minus direct forecast, in usual errors); encode.

    The embedding has the hours first.
    """
    bounds = (graph.integers(0), graph.integers(model.dims.targets), graph.integers(2))
    observed, mask = (graph.op("Slice", name, *bounds) for name in ("observed", "observed_mask"))
    relative = graph.op("Div", graph.op("Sub", observed, _direct(model, graph)), _usual_error(model, graph))
    limits = (graph.weight(-INNOVATION_MAX), graph.weight(INNOVATION_MAX))
    innovation = graph.op("Clip", graph.op("Mul", relative, mask), *limits)
    joined = graph.op("Concat", "observed", "observed_mask", innovation, axis=-1)
    by_hour = graph.swap_batch_and_hours(joined)
    rows = graph.rows(by_hour, 2 * model.dims.observed + model.dims.targets)
    return graph.unrolled(graph.sequential(model.encoder.net, rows), model.config.latent_dim, like=by_hour)


def _direct(model: UrbanWorldModel, graph: GraphBuilder) -> str:
    """Return the direct forecast `(batch, hours, 3)`."""
    return graph.op("Gather", "skip", graph.weight(np.array(model.dims.direct, dtype=np.int64)), axis=-1)


def _usual_error(model: UrbanWorldModel, graph: GraphBuilder) -> str:
    """Return the usual error of the direct forecast `(batch, hours, 3)`."""
    column = graph.weight(np.array(model.dims.log_error, dtype=np.int64))
    return graph.op("Exp", graph.op("Gather", "skip", column, axis=-1))


def _read_out(model: UrbanWorldModel, graph: GraphBuilder, h_path: str, z_path: str) -> str:
    """Read the forecast out of all hours' h `(batch, hours, D)` and z `(batch, hours, Z)`."""
    head, raw = model.predictor, _read_rows(model, graph, h_path, z_path)
    if isinstance(head, Predictor):
        pm25_and_energy, traffic = graph.split(raw, 2, 1)
        positive, share = graph.op("Softplus", pm25_and_energy), graph.op("Sigmoid", traffic)
        units = graph.weight([PM25_SCALE_UGM3, ENERGY_SCALE_MWH, TRAFFIC_MAX])
        scaled = graph.op("Mul", graph.op("Concat", positive, share, axis=-1), units)
        signals = graph.op("Add", scaled, graph.weight([PM25_FLOOR_UGM3, ENERGY_FLOOR_MWH, 0.0]))
        return graph.op("Unsqueeze", signals, graph.integers(-1))
    steps, quantiles = head.steps_to_quantiles.shape
    raw = graph.op("Reshape", raw, graph.integers(0, 0, head.targets, quantiles))
    deviation, raw_steps = graph.split(raw, quantiles - steps, steps)
    widened = graph.op("Max", graph.op("Softplus", raw_steps), graph.weight(head.start.diff(dim=-1)))
    spread = graph.op("MatMul", widened, graph.weight(head.steps_to_quantiles))
    direct, usual_error = (
        graph.op("Unsqueeze", part, graph.integers(-1))
        for part in (_direct(model, graph), _usual_error(model, graph))
    )
    departure = graph.op("Sub", graph.op("Add", deviation, spread), graph.weight(head.start))
    kept = graph.op("Mul", departure, graph.weight(head.share.unsqueeze(-1)))
    relative = graph.op("Add", graph.weight(head.start), kept)
    return graph.op("Add", direct, graph.op("Mul", usual_error, relative))


def _read_rows(model: UrbanWorldModel, graph: GraphBuilder, h_path: str, z_path: str) -> str:
    """Run the read-out's network on one row after the other: its hours fit the cache, all rows' do not."""
    head, D, Z, body = model.predictor, model.config.hidden_dim, model.config.latent_dim, GraphBuilder("r")
    layers = nn.Sequential(*head.net, *([] if isinstance(head, Predictor) else [head.out]))
    first, last = layers[0], layers[-1]
    if not (isinstance(first, nn.Linear) and isinstance(last, nn.Linear)):
        raise InternalContractBroken("the read-out does not begin and end with Linear")
    of_z = body.linear("z_row", first.weight[:, D:], first.bias)
    of_state = body.linear("h_row", first.weight[:, :D], of_z)
    body.call(body.sequential(layers[1:], of_state), "raw_row")
    inputs = [_tensor("h_row", HOURS, D), _tensor("z_row", HOURS, Z)]
    outputs = [_tensor("raw_row", HOURS, last.out_features)]
    row = helper.make_graph(body.nodes, "row", inputs, outputs, body.weights)
    (raw,) = _scan(graph, row, [], [h_path, z_path])
    return raw


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
    for wanted, value in named.items():
        graph.call(value, wanted)
    built = helper.make_model(
        helper.make_graph(graph.nodes, name, inputs, outputs, graph.weights),
        producer_name="urbanwm",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(built, full_check=True)
    content: bytes = built.SerializeToString(deterministic=True)
    return content
