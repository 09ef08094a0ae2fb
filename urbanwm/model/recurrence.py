"""The sequential half of the RSSM: a GRU cell and a Gaussian head, hour after hour.

Filtering and imagining are the same recurrence. With D = width of h, Z = width of z, at each hour t:

    h_t      = GRU(input_drive_t + W_z z_{t-1}, h_{t-1})
    a_t      = f(W_a h_t + head_drive_t)
    mean, lv = W_o a_t + b_o
    z_t      = mean + noise_t · exp(clamp(lv, logvar_min, LOGVAR_MAX) / 2)

`input_drive` is what is known of the GRU's input beforehand, `head_drive` what is known of the head's: the
embedding when filtering (posterior), only a bias when imagining (prior). Both are one matrix product over
all hours, outside.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGVAR_MAX = 2.0


class Trajectory(NamedTuple):
    """States of consecutive hours: h `(T, B, D)`; z, mean and logvar `(T, B, Z)`; batch first elsewhere."""

    h: Tensor
    z: Tensor
    mean: Tensor
    logvar: Tensor


class RecurrentWeights(NamedTuple):
    """The weights inside the recurrence; gate order r, u, n as in `torch.nn.GRUCell`."""

    latent_to_gates: Tensor
    """W_z `(3D, Z)`."""
    hidden_to_gates: Tensor
    """`(3D, D)`."""
    gates_bias: Tensor
    """Bias of the hidden product `(3D,)`."""
    hidden_to_head: Tensor
    """W_a `(D, D)`."""
    head_out: Tensor
    """W_o `(2Z, D)`."""
    head_out_bias: Tensor
    """b_o `(2Z,)`."""


def run_recurrence(
    input_drive: Tensor,
    head_drive: Tensor,
    noise: Tensor,
    h: Tensor,
    z: Tensor,
    weights: RecurrentWeights,
    *,
    silu: bool,
    logvar_min: float,
) -> Trajectory:
    """Run the recurrence with a hand-written backward.

    Args:
        input_drive: `(T, B, 3D)`.
        head_drive: `(T, B, D)`, or `(1, 1, D)` for the same at every hour.
        noise: `(T, B, Z)`, standard normal, or zeros for the latent means; no gradient flows into it.
        h: State before the first hour `(B, D)`.
        z: State before the first hour `(B, Z)`.
        weights: See `RecurrentWeights`.
        silu: Whether f is SiLU; otherwise ReLU.
        logvar_min: Lower bound of the log-variance.
    """
    drive = head_drive.expand(input_drive.shape[0], *h.shape)
    path = _Recurrence.apply(input_drive, drive, noise, h, z, *weights, silu, logvar_min)  # type: ignore[no-untyped-call]
    return Trajectory(*path)


class _Recurrence(torch.autograd.Function):
    """Three matrix products per hour forward and three backward, into buffers allocated once.

    h_t feeds the head of its own hour and the gates of the next, so both are one product with `[W_a; W_h]`.
    All gate derivatives are computed for all hours before the backward loop, all weight gradients after it,
    each as one product over T·B rows. About twice as fast as autograd over `recurrence_plain`.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context takes any attribute
        input_drive: Tensor,
        head_drive: Tensor,
        noise: Tensor,
        h: Tensor,
        z: Tensor,
        latent_to_gates: Tensor,
        hidden_to_gates: Tensor,
        gates_bias: Tensor,
        hidden_to_head: Tensor,
        head_out: Tensor,
        head_out_bias: Tensor,
        silu: bool,
        logvar_min: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        T, B, gates_width = input_drive.shape
        D, Z = gates_width // 3, z.shape[1]
        new = input_drive.new_empty
        # A leading slot for the state before the first hour.
        hs, zs = new(T + 1, B, D), new(T + 1, B, Z)
        hs[0], zs[0] = h, z
        gates = input_drive.clone()  # becomes r, u, n
        from_hidden = new(T, B, gates_width)
        head_in, head, out = head_drive.clone(), new(T, B, D), new(T, B, 2 * Z)
        spread = new(T, B, Z)
        from_h = torch.cat([hidden_to_head, hidden_to_gates]).t().contiguous()  # (D, 4D)
        from_z, to_out = latent_to_gates.t(), head_out.t()
        product = new(B, D + gates_width)
        torch.mm(h, hidden_to_gates.t(), out=product[:, D:])
        for t in range(T):
            torch.add(product[:, D:], gates_bias, out=from_hidden[t])
            gate = gates[t].addmm_(zs[t], from_z)
            reset_update = gate[:, : 2 * D]
            reset_update.add_(from_hidden[t, :, : 2 * D]).sigmoid_()
            candidate = gate[:, 2 * D :]
            candidate.addcmul_(gate[:, :D], from_hidden[t, :, 2 * D :]).tanh_()
            torch.lerp(candidate, hs[t], gate[:, D : 2 * D], out=hs[t + 1])
            torch.mm(hs[t + 1], from_h, out=product)
            head_in[t].add_(product[:, :D])
            if silu:
                torch.sigmoid(head_in[t], out=head[t]).mul_(head_in[t])
            else:
                torch.clamp(head_in[t], min=0.0, out=head[t])
            torch.addmm(head_out_bias, head[t], to_out, out=out[t])
            logvar = out[t, :, Z:]
            torch.clamp(logvar, logvar_min, LOGVAR_MAX, out=spread[t]).mul_(0.5).exp_().mul_(noise[t])
            torch.add(out[t, :, :Z], spread[t], out=zs[t + 1])
        ctx.save_for_backward(
            hs,
            zs,
            gates,
            from_hidden,
            head_in,
            head,
            out,
            spread,
            latent_to_gates,
            hidden_to_gates,
            hidden_to_head,
            head_out,
        )
        ctx.silu, ctx.logvar_min = silu, logvar_min
        return (
            hs[1:].clone(),
            zs[1:].clone(),
            out[..., :Z].clone(),
            out[..., Z:].clamp(logvar_min, LOGVAR_MAX),
        )

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        grad_h: Tensor,
        grad_z: Tensor,
        grad_mean: Tensor,
        grad_logvar: Tensor,
    ) -> tuple[Tensor | None, ...]:
        hs, zs, gates, from_hidden, head_in, head, out, spread, w_z, w_h, w_a, w_o = ctx.saved_tensors
        T, B, D = grad_h.shape
        Z = grad_z.shape[2]
        reset, update, candidate = gates.split(D, dim=2)
        # d gate / d h_t for every hour: r, u, n of the input product, then n's share of the hidden product.
        by_candidate = (1.0 - update) * (1.0 - candidate.square())
        by_update = (hs[:-1] - candidate) * update * (1.0 - update)
        by_reset = by_candidate * from_hidden[:, :, 2 * D :] * reset * (1.0 - reset)
        slope = torch.stack([by_reset, by_update, by_candidate], dim=2)  # (T, B, 3, D)
        if ctx.silu:
            sigmoid = torch.sigmoid(head_in)
            head_slope = sigmoid * (1.0 + head_in * (1.0 - sigmoid))
        else:
            head_slope = (head_in > 0.0).to(head_in.dtype)
        logvar = out[..., Z:]
        inside = ((logvar >= ctx.logvar_min) & (logvar <= LOGVAR_MAX)).to(out.dtype)
        by_spread = 0.5 * spread * inside  # d z / d logvar
        d_out = torch.cat([grad_mean, grad_logvar * inside], dim=2)
        d_gates = torch.empty_like(slope)
        # d head and, of the hour after, d hidden product: one product brings both back to h_t.
        back = grad_h.new_zeros(T + 1, B, 4 * D)
        to_h = torch.cat([w_a, w_h])  # (4D, D)
        d_z = grad_z[T - 1].clone()
        d_h = torch.empty_like(grad_h[0])
        carried = torch.zeros_like(grad_h[0])
        for t in range(T - 1, -1, -1):
            d_out[t, :, :Z].add_(d_z)
            d_out[t, :, Z:].addcmul_(d_z, by_spread[t])
            d_head = back[t, :, :D]
            torch.mm(d_out[t], w_o, out=d_head).mul_(head_slope[t])
            torch.addmm(grad_h[t], back[t], to_h, out=d_h).add_(carried)
            torch.mul(slope[t], d_h.unsqueeze(1), out=d_gates[t])
            d_gate = d_gates[t].view(B, 3 * D)
            if t > 0:
                d_hidden = back[t - 1, :, D:]
                d_hidden.copy_(d_gate)
                d_hidden[:, 2 * D :].mul_(reset[t])
                torch.mul(d_h, update[t], out=carried)
                torch.addmm(grad_z[t - 1], d_gate, w_z, out=d_z)
        d_first = d_gates[0].view(B, 3 * D).clone()
        d_h0 = d_h * update[0]
        d_z0 = d_first @ w_z
        d_first[:, 2 * D :].mul_(reset[0])
        d_h0.addmm_(d_first, w_h)
        d_input = d_gates.view(T, B, 3 * D)
        rows = T * B
        d_hidden_all = torch.cat([d_first.unsqueeze(0), back[: T - 1, :, D:]]).view(rows, 3 * D)
        d_head_all = back[:T, :, :D].reshape(rows, D)
        d_out_all = d_out.view(rows, 2 * Z)
        return (
            d_input,
            d_head_all.view(T, B, D),
            None,
            d_h0,
            d_z0,
            d_input.reshape(rows, 3 * D).t() @ zs[:-1].reshape(rows, Z),
            d_hidden_all.t() @ hs[:-1].reshape(rows, D),
            d_hidden_all.sum(dim=0),
            d_head_all.t() @ hs[1:].reshape(rows, D),
            d_out_all.t() @ head.view(rows, D),
            d_out_all.sum(dim=0),
            None,
            None,
        )
