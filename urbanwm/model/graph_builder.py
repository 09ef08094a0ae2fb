"""ONNX graphs node by node: the few operations that the world model is made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from urbanwm.errors import InternalContractBroken


class GraphBuilder:
    """Nodes and weights of one (sub)graph; every operation returns the name of its result."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def name(self) -> str:
        """Return a fresh name, unique across the main graph and its body."""
        return f"{self.prefix}{len(self.nodes) + len(self.weights)}"

    def weight(self, values: Tensor | NDArray[np.generic] | Sequence[float] | float) -> str:
        """Add a constant: float32, unless it is an integer array."""
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        if not np.issubdtype(array.dtype, np.integer):
            array = array.astype(np.float32)
        name = self.name()
        self.weights.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def many(self, operator: str, inputs: Sequence[str], outputs: int, **attributes: object) -> list[str]:
        """Add a node with several results."""
        names = [f"{self.name()}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names

    def op(self, operator: str, *inputs: str, **attributes: object) -> str:
        """Add a node with one result."""
        return self.many(operator, inputs, 1, **attributes)[0]

    def integers(self, *values: int) -> str:
        """Add an int64 vector."""
        return self.weight(np.array(values, dtype=np.int64))

    def linear(self, x: str, weight: Tensor, bias: Tensor | str = "") -> str:
        """Return x Wᵀ + b of rows `(rows, in)` for a torch weight `(out, in)`, in one operation.

        The bias is a vector `(out)`, another result `(rows, out)`, or none.
        """
        added = bias if isinstance(bias, str) else self.weight(bias)
        return self.op("Gemm", x, self.weight(weight.t()), added)

    def swap_batch_and_hours(self, x: str) -> str:
        """Turn `(batch, hours, ...)` with one axis behind into `(hours, batch, ...)`, or back."""
        return self.op("Transpose", x, perm=[1, 0, 2])

    def rows(self, x: str, width: int) -> str:
        """Lay `(a, b, width)` out as `(a · b, width)`: no copy."""
        return self.op("Reshape", x, self.integers(-1, width))

    def unrolled(self, rows: str, *widths: int, like: str) -> str:
        """Lay `(a · b, ...)` out as `(a, b, *widths)`, with a and b those of `like`: no copy."""
        shape = self.op("Concat", self.op("Shape", like, end=2), self.integers(*widths), axis=0)
        return self.op("Reshape", rows, shape)

    def silu(self, x: str) -> str:
        """Return x · sigmoid(x)."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    def split(self, x: str, *sizes: int) -> list[str]:
        """Cut the last axis."""
        return self.many("Split", [x, self.integers(*sizes)], len(sizes), axis=-1)

    def call(self, value: str, name: str) -> None:
        """Give a result of a node its name as an output of the graph."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, present in enumerate(names):
                    if present == value:
                        names[i] = name

    def sequential(self, layers: nn.Module, x: str) -> str:
        """Run a stack of torch layers in evaluation mode."""
        for layer in layers.children():
            if isinstance(layer, nn.Linear):
                x = self.linear(x, layer.weight, layer.bias)
            elif isinstance(layer, nn.LayerNorm):
                inputs = (x, self.weight(layer.weight), self.weight(layer.bias))
                x = self.op("LayerNormalization", *inputs, axis=-1, epsilon=float(layer.eps))
            elif isinstance(layer, nn.SiLU):
                x = self.silu(x)
            elif isinstance(layer, nn.ReLU):
                x = self.op("Relu", x)
            elif not isinstance(layer, nn.Dropout):
                raise InternalContractBroken(f"no ONNX form for layer {type(layer).__name__}")
        return x
