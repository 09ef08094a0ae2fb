"""Matrix products in the precision of an active autocast, for hand-written derivatives.

Autograd functions see no autocast in their backward, and products into given memory never do.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

LARGE_PRODUCT = 2**24
"""Multiplications from which on a CPU is faster in bfloat16: 64 windows through the GRU, not 32."""


def written_by_hand(values: Tensor) -> bool:
    """Tell whether to use the hand-written derivatives.

    They save memory traffic, which counts on a CPU. A GPU is better off with few and large operations, and a
    compiler with plain ones.
    """
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


class Arithmetic:
    """Matrix products of float32 tensors, as precise as autocast says; everything else is up to the caller.

    Factors are cast, as autocast does. A CPU with bfloat16 rounds them instead as it reads them, without a
    copy, and gains only from large products; the others stay precise.
    """

    def __init__(self, like: Tensor) -> None:
        """Take the precision of an active autocast, else that of `like`."""
        device = like.device.type
        active = torch.is_autocast_enabled(device) and like.dtype == torch.float32
        dtype = torch.get_autocast_dtype(device) if active else like.dtype
        self.rounds = active and dtype == torch.bfloat16 and device == "cpu" and multiplies_bfloat16()
        self.dtype = like.dtype if self.rounds else dtype
        self.casts = self.dtype != like.dtype

    def cast(self, values: Tensor) -> Tensor:
        """Return the values in the precision of factors."""
        return values.to(self.dtype)

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
        """Write `left @ right` to `out`; `right` has been cast."""
        if self.casts:
            return out.copy_(torch.mm(self.cast(left), right))
        with self._precision(left, right):
            return torch.mm(left, right, out=out)

    def add_product(self, base: Tensor, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
        """Write `base + left @ right` to `out`, which may be `base`; `right` has been cast."""
        if self.casts:
            return torch.add(base, torch.mm(self.cast(left), right), out=out)
        with self._precision(left, right):
            return torch.addmm(base, left, right, out=out)

    def product(self, left: Tensor, right: Tensor, like: Tensor) -> Tensor:
        """Return `left @ right` in the precision of `like`."""
        return self.multiply(left, self.cast(right), like.new_empty(len(left), right.shape[1]))

    def _precision(self, left: Tensor, right: Tensor) -> AbstractContextManager[None]:
        """Return where a product of these factors belongs."""
        return _ROUNDED if self.rounds and len(left) * right.numel() >= LARGE_PRODUCT else _PRECISE


_PRODUCTS = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # the stubs lack it


class _Rounded(AbstractContextManager[None]):
    """Where products of float32 tensors round their factors to bfloat16."""

    def __enter__(self) -> None:
        self.before = _PRODUCTS.fp32_precision
        _PRODUCTS.fp32_precision = "bf16"

    def __exit__(self, *_: object) -> None:
        _PRODUCTS.fp32_precision = self.before


def multiplies_bfloat16() -> bool:
    """Tell whether the processor has products of bfloat16."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - there is no other name


_ROUNDED, _PRECISE = _Rounded(), nullcontext()
