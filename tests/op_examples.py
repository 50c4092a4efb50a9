"""Calls of every row of the table of ops in every spelling, with random arguments, as graphs of one node."""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxprune.ops.call import Call
from fxprune.ops.op import Op

# What parameters may be given, by name, for any row that has them.
_VALUES: dict[str, list[Any]] = {
    **{"kernel_size": [2, 3], "stride": [1, 2], "padding": [0, 1], "dilation": [1, 2], "groups": [1, 2]},
    **{"ceil_mode": [False, True], "count_include_pad": [True, False], "divisor_override": [None, 3]},
    **{
        "return_indices": [False],
        "output_size": [2, 3],
        "dim": [1, -1],
        "dims": [(0, 2, 3, 1)],
        "keepdim": [False, True],
    },
    **{"dim0": [1], "dim1": [2, -1], "start_dim": [0, 1], "end_dim": [-1, 2], "shape": [(2, -1)], "chunks": [2]},
    **{"split_size": [2], "split_size_or_sections": [2, [1, 3]], "index": [1, (slice(None), slice(0, 2))]},
    **{
        "start": [0, 1],
        "length": [2],
        "size": [(3, 4)],
        "repeats": [(1, 2, 1, 1)],
        "shifts": [1],
        "pad": [(1, 0, 2, 1)],
    },
    **{"mode": ["constant"], "value": [None, 0.0, 1.5], "upscale_factor": [2], "downscale_factor": [2]},
    **{"p": [0.0, 0.5], "training": [False, True], "inplace": [False, True], "min_val": [-0.7], "max_val": [0.4]},
    **{"min": [None, -0.5, 0.25], "max": [None, 0.75], "negative_slope": [0.2, -0.5, 0.0], "alpha": [1.0, 0.5]},
    **{"lambd": [0.3], "beta": [1.0, 2.0, -1.0], "threshold": [20.0, 0.5, -3.0], "approximate": ["none", "tanh"]},
    **{"eps": [1e-5, 0.1], "momentum": [0.1], "num_groups": [2], "normalized_shape": [(6,)], "k": [1.0]},
    **{
        "num_samples": [2],
        "fill_value": [0.5],
        "rounding_mode": [None, "floor"],
        "name": ["shape"],
        "high": [5],
        "unbiased": [True, False],
        "dimension": [1],
        "step": [1],
        "bound": [2.0, 0.5],
        "norm_type": [2, 3],
        "message": ["no"],
        "to": [(torch.float64,)],
    },
    **{"output_padding": [0], "dtype": [None], "memory_format": [torch.contiguous_format], "_stacklevel": [3]},
    **{"block_size": [3], "max_norm": [None], "cudnn_enabled": [False], "use_input_stats": [True], "size_": [(2, 3)]},
}
# ... and for single rows.
_OF_ROW: dict[str, dict[str, list[Any]]] = {
    "stochastic_depth": {"mode": ["row", "batch"], "p": [0.5]},
    "interpolate": {"mode": ["nearest", "bilinear", "bicubic", "area"], "size": [(4, 9)], "antialias": [False]},
    "norm": {"p": [2, "fro", 1], "dim": [1, (2, 3)]},
    "mean": {"dim": [1, (2, 3), -1]},
    "sum": {"dim": [1, (2, 3)]},
    "add": {"alpha": [1, -3]},
    "sub": {"alpha": [1, 2]},
    "elu": {"alpha": [1.0, 0.3, -0.5]},
    "celu": {"alpha": [1.0, 0.3]},
    "pow": {"exponent": [2]},
    "local_response_norm": {"size": [2]},
    "normalize": {"p": [2.0, 1], "dim": [1]},
    "flip": {"dims": [(1,), (2, 3)]},
    "zeros": {"size": [(2, 3)]},
    "expand": {"size": [(3, 2, 4, 6, 6)]},
    "drop_block2d": {"p": [0.3], "eps": [1e-6]},
    "drop_block3d": {"p": [0.3], "eps": [1e-6]},
    "roll": {"dims": [1, None]},
    "bernoulli": {"p": [None]},
    "embedding_bag": {"mode": ["mean", "sum"], "offsets": [None]},
    "zero_pad": {"padding": [1]},
    "rms_norm": {"eps": [None, 0.1]},
    "tensordot": {"dims": [1]},
    "unfold": {"size": [2]},
    "eye": {"size": [(3,)]},
    "arange": {"size": [(5,), (2, 7)]},
    "randint": {"size": [(5, (2, 3))]},
    "randperm": {"size": [(5,)]},
    "normal": {"size": [(0.0, 1.0, (2, 3))]},
    "new_tensor": {"size": [(2, 3)]},
    "linear": {},
    "squeeze": {"dim": [1, 2]},
    "unsqueeze": {"dim": [0, -1]},
    "tile": {"dims": [(1, 2, 1, 1), (2, 1)]},
    "repeat_interleave": {"repeats": [2], "dim": [1, -1, None]},
    "tensor_split": {"indices_or_sections": [2, (1, 3)]},
    "unsqueeze_to": {"target_dim": [4, 5], "expand_dim": [1]},
    "squeeze_to": {"target_dim": [4, 5], "expand_dim": [1], "tensor_dim": [4]},
    "select": {"dim": [1, -1], "index": [1, -1]},
    "unflatten": {"dim": [1], "sizes": [(2, 2), (-1, 2)], "unflattened_size": [(2, 2)]},
    "movedim": {"source": [1, (0, 1)], "destination": [-1, (1, 0)]},
    "masked_fill": {"value": [0.5]},
    "topk": {"k": [2], "dim": [1, -1]},
    "threshold": {"threshold": [0.1], "value": [0.5]},
    "vector_norm": {"ord": [2, 1, None], "dim": [1, (2, 3)]},
    "linalg_norm": {"ord": [2, 1, None], "dim": [1, (2, 3)]},
    "logsumexp": {"dim": [1, (2, 3)]},
    "full": {"size": [(2, 3)]},
    "new_full": {"size": [(2, 3)]},
    "im2col": {"kernel_size": [2]},
    "col2im": {"output_size": [(4, 4)], "kernel_size": [2], "stride": [2], "padding": [0], "dilation": [1]},
    "glu": {"dim": [1, -1]},
    "grid_sample": {"mode": ["bilinear", "nearest"], "align_corners": [False, True]},
}
_SHAPES = {1: (2, 4, 9), 3: (2, 4, 5, 6, 7)}
_IMAGES = (2, 4, 6, 6)
_LAYER_ARGUMENTS: dict[type[nn.Module], tuple[Any, ...]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), (4, 6)),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), (4, 6)),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), (4,)),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), (4,)),
    **dict.fromkeys((nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell), (6, 5)),
    **{nn.Linear: (6, 5), nn.GroupNorm: (2, 4), nn.Embedding: (7, 3), nn.EmbeddingBag: (7, 3)},
    **{nn.Bilinear: (6, 6, 3), nn.MultiheadAttention: (6, 2), nn.PReLU: (4,)},
}
_RANK_OF_LAYER = {"1d": 1, "2d": 2, "3d": 3}


@dataclass
class Example:
    """One call of a row: a graph of ``node``, what it is run on, and what was given for each parameter."""

    op: Op
    graph: fx.GraphModule
    node: fx.Node
    inputs: tuple[torch.Tensor, ...]
    given: dict[str, Any]

    @property
    def call(self) -> Call:
        """The call of the row."""
        return Call(self.node)

    def run(self, *inputs: torch.Tensor, seed: int = 0) -> Any:
        """Return what the call returns for ``inputs``, or for those of the example; in place it writes to copies."""
        torch.manual_seed(seed)
        return self.graph(*(x.clone() for x in (inputs or self.inputs)))


def spellings(op: Op) -> Iterator[Any]:
    """Yield every spelling of a row: classes, functions (or their full names), methods."""
    yield from op.layers
    yield from (one for one in op.functions)
    yield from op.methods


def example(op: Op, spelling: Any, chance: random.Random, overrides: dict[str, Any] | None = None) -> Example | None:
    """Return a call of ``op`` in that spelling with random arguments; None if it takes none of those drawn."""
    for share in (1.0, 0.5, 0.0):  # some spellings do not take all options
        values = _drawn(op, chance, share) | (overrides or {})
        inputs, weights = _tensors(op, spelling, values, chance)
        try:
            if isinstance(spelling, type):
                graph, node = _layer(op, spelling, values, inputs)
            else:
                graph, node = _function(op, spelling, values, inputs, weights, chance)
            found = Example(op, graph, node, tuple(inputs.values()), values)
            with torch.no_grad():
                found.run()
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError, AssertionError):
            continue
        return found
    return None


def _drawn(op: Op, chance: random.Random, share: float) -> dict[str, Any]:
    """Return values for what must be given, and for a share of the options."""
    known, own = _VALUES | _OF_ROW.get(op.name, {}), {*op.weights, *_SPECIAL.get(op.name, {})}
    taken = [one for one in op.parameters[op.inputs :] if one.name in known and one.name not in own]
    named = [
        one.name for one in taken if one.required or (one.variadic and op.kind != "cast") or chance.random() < share
    ]
    return {name: chance.choice(known[name]) for name in named}


def _tensors(
    op: Op, spelling: Any, values: dict[str, Any], chance: random.Random
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return what is given for the inputs, and for the weights of functions."""
    generator = torch.Generator().manual_seed(chance.randrange(1 << 30))

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if op.kind == "join":
        return {"first": randn(*_IMAGES), "second": randn(*_IMAGES)}, {}
    axes = op.axes or next((rank for end, rank in _RANK_OF_LAYER.items() if end in _name(spelling)), 0)
    x = randn(*_SHAPES.get(axes, _IMAGES))
    special = _SPECIAL.get(op.name)
    if special is not None:
        found = {name: tensor(randn) for name, tensor in special.items()}
        return {n: t for n, t in found.items() if n not in op.weights and n != "weight"}, found
    names = [one.name for one in op.parameters[: op.inputs] if not one.variadic]
    inputs = {name: x if place == 0 else randn(*x.shape) for place, name in enumerate(names)}
    if op.kind in ("conv", "transposed conv"):
        groups = values.get("groups", 1)
        kernel = (values.get("kernel_size", 3),) * op.axes
        sides = (6, 4 // groups) if op.kind == "conv" else (4, 6 // groups)
        return inputs, {"weight": randn(*sides, *kernel), "bias": randn(6)}
    if op.kind == "linear":
        return inputs, {"weight": randn(5, 6), "bias": randn(5)}
    size = 6 if "normalized_shape" in op.places else 4
    statistics = {"running_mean": randn(4), "running_var": randn(4).square() + 0.5}
    return inputs, {"weight": randn(size), "bias": randn(size), **statistics}


def _name(spelling: Any) -> str:
    return spelling if isinstance(spelling, str) else getattr(spelling, "__name__", "")


_Random = Callable[..., torch.Tensor]
_SPECIAL: dict[str, dict[str, Callable[[_Random], torch.Tensor]]] = {
    "matmul": {"input": lambda r: r(2, 3, 4), "other": lambda r: r(2, 4, 5)},
    "bmm": {"input": lambda r: r(2, 3, 4), "mat2": lambda r: r(2, 4, 5)},
    "mm": {"input": lambda r: r(3, 4), "mat2": lambda r: r(4, 5)},
    "mv": {"input": lambda r: r(3, 4), "vec": lambda r: r(4)},
    "inner": {"input": lambda r: r(3, 4), "other": lambda r: r(5, 4)},
    "dot": {"input": lambda r: r(4), "tensor": lambda r: r(4)},
    "addmm": {"input": lambda r: r(3, 5), "mat1": lambda r: r(3, 4), "mat2": lambda r: r(4, 5)},
    "addmv": {"input": lambda r: r(3), "mat": lambda r: r(3, 4), "vec": lambda r: r(4)},
    "baddbmm": {"input": lambda r: r(2, 3, 5), "batch1": lambda r: r(2, 3, 4), "batch2": lambda r: r(2, 4, 5)},
    "addbmm": {"input": lambda r: r(3, 5), "batch1": lambda r: r(2, 3, 4), "batch2": lambda r: r(2, 4, 5)},
    "outer": {"input": lambda r: r(3), "vec2": lambda r: r(4)},
    "addr": {"input": lambda r: r(3, 4), "vec1": lambda r: r(3), "vec2": lambda r: r(4)},
    "tensordot": {"a": lambda r: r(3, 4), "b": lambda r: r(4, 5)},
    "bilinear": {"input1": lambda r: r(2, 6), "input2": lambda r: r(2, 6), "weight": lambda r: r(3, 6, 6)},
    "embedding": {"input": lambda r: r(2, 5).abs().long() % 7, "weight": lambda r: r(7, 3)},
    "embedding_bag": {"input": lambda r: r(2, 5).abs().long() % 7, "weight": lambda r: r(7, 3)},
    "rnn": {"input": lambda r: r(3, 6)},
    "gru": {"input": lambda r: r(3, 6)},
    "lstm": {"input": lambda r: r(3, 6)},
    "multihead_attention": {name: (lambda r: r(3, 2, 6)) for name in ("query", "key", "value")},
    "poisson": {"input": lambda r: r(3, 4).abs()},
    "multinomial": {"input": lambda r: r(3, 4).abs() + 0.1},
    "bernoulli": {"input": lambda r: r(3, 4).sigmoid()},
    "math": {"value": lambda r: r(1).abs()},
    "extremum": {"values": lambda r: r(3)},
    "not": {"value": lambda r: r(1)},
    "logical_not": {"input": lambda r: r(3, 4) > 0},
    **{
        f"logical_{name}": {"input": lambda r: r(3, 4) > 0, "other": lambda r: r(3, 4) > 0}
        for name in ("and", "or", "xor")
    },
    "where": {"input": lambda r: r(3, 4), "other": lambda r: r(3, 4), "condition": lambda r: r(3, 4) > 0},
    "masked_fill": {"input": lambda r: r(3, 4), "mask": lambda r: r(3, 4) > 0},
    "index_select": {"input": lambda r: r(3, 4), "index": lambda r: r(5).abs().long() % 4},
    "gather": {"input": lambda r: r(3, 4), "index": lambda r: r(3, 5).abs().long() % 4},
    "grid_sample": {"input": lambda r: r(2, 4, 6, 6), "grid": lambda r: r(2, 3, 5, 2)},
    "t": {"input": lambda r: r(3, 4)},
    "im2col": {"input": lambda r: r(2, 4, 6, 6)},
    "col2im": {"input": lambda r: r(2, 12, 4)},
    "assert": {"condition": lambda r: r(1) ** 2 > -1},
    "einsum": {},
    "multi_dot": {},
    "chain_matmul": {},
}


def _layer(
    op: Op, kind: type[nn.Module], values: dict[str, Any], inputs: dict[str, torch.Tensor]
) -> tuple[fx.GraphModule, fx.Node]:
    """Return the graph of a layer that is made with those of ``values`` that it takes."""
    taken = list(inspect.signature(kind.__init__).parameters)[1:]
    positional = _LAYER_ARGUMENTS.get(kind, ())
    options = {name: value for name, value in values.items() if name in taken[len(positional) :]}
    if "kernel_size" in taken:
        options.setdefault("kernel_size", 3)
    layer = kind(*positional, **options).double()
    layer.train(bool(values.get("training", False)))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    root, graph = nn.Module(), fx.Graph()
    root.layer = layer
    reads = tuple(graph.placeholder(name) for name in inputs)
    node = graph.call_module("layer", reads)
    graph.output(node)
    values.clear()
    values.update(options)
    made = fx.GraphModule(root, graph)
    return made, next(iter(made.graph.find_nodes(op="call_module")))


def _function(
    op: Op,
    spelling: Any,
    values: dict[str, Any],
    inputs: dict[str, torch.Tensor],
    weights: dict[str, torch.Tensor],
    chance: random.Random,
) -> tuple[fx.GraphModule, fx.Node]:
    """Return the graph of a function or a method, given some arguments by position, and the others by name."""
    root, graph = nn.Module(), fx.Graph()
    reads: dict[str, Any] = {name: graph.placeholder(name) for name in inputs}
    for name, tensor in weights.items():
        if name in op.places and name not in reads:
            root.register_buffer(name, tensor)
            reads[name] = graph.get_attr(name)
    is_method = isinstance(spelling, str) and spelling in op.methods
    target = imported(spelling) if isinstance(spelling, str) and not is_method else spelling
    if op.kind == "join":
        reads = {"tensors": list(reads.values())}
    args, kwargs = _arguments(op, reads, values, chance, spread=is_method or op.kind in ("new", "random"))
    node = graph.call_method(spelling, args, kwargs) if is_method else graph.call_function(target, args, kwargs)
    graph.output(node)
    made = fx.GraphModule(root, graph)
    return made, next(one for one in made.graph.nodes if one.op in ("call_function", "call_method"))


def _arguments(
    op: Op, reads: dict[str, Any], values: dict[str, Any], chance: random.Random, spread: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    given = reads | values
    by_position = chance.randrange(len(op.parameters) + 1) if chance.random() < 0.7 else 1
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for place, one in enumerate(op.parameters):
        if one.name not in given:
            continue
        if one.variadic:
            args += given[one.name] if spread and isinstance(given[one.name], tuple) else [given[one.name]]
        elif place == len(args) and place < max(by_position, op.inputs) and not one.named:
            args.append(given[one.name])
        else:
            kwargs[one.name] = given[one.name]
    return tuple(args), kwargs


def imported(name: str) -> Any:
    """Return the function of a full name."""
    home, _, function = name.rpartition(".")
    return getattr(importlib.import_module(home), function)
