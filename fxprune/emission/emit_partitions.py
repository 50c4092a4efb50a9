"""One network a partition: k processes run them, and add their outputs up once.

fc3 relu(fc2 relu(fc1 x))  with blocks b   ->   sum over b of fc3_b relu(fc2_b relu(fc1_b x_b))    + the bias of fc3
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx, nn

from fxprune.choosing.partitions.plan import PartitionPlan
from fxprune.emission.emit import emit
from fxprune.emission.partition_script import SCRIPT
from fxprune.errors import EmitError
from fxprune.facts.shapes import renew_shapes
from fxprune.files import make_folder, write_text
from fxprune.ir.arguments import require_arguments
from fxprune.ir.copies import copy_graph_module
from fxprune.ir.nodes import called_module, called_modules, example_inputs_of, remove_unused_state, require_graph
from fxprune.ir.weight_blocks import WeightBlocks, blocks_of, forget_blocks
from fxprune.ops.call import Call
from fxprune.rewriting.block_products import BlockWriter
from fxprune.rewriting.contract import Log
from fxprune.rewriting.cutting.cut import Cut
from fxprune.rewriting.float64 import run_float64
from fxprune.rewriting.rewriter import Rewriter
from fxprune.rewriting.verify import TOLERANCE, difference
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import Array
from fxprune.structures.partitions.chains import Chain, find_chains
from fxprune.structures.partitions.movable import Movable, in_order_of_making
from fxprune.weights.masking import part
from fxprune.weights.slicing import with_tensors

_MADE_BY = "emit-partitions"


def emit_partitions(graph_module: fx.GraphModule, folder: str | Path) -> list[Path]:
    """Write ``graph_module`` as a network for each of its blocks, and run.py, which runs them as so many processes.

    Each reads all inputs of the network, and computes what comes before the chain too: of the layer that feeds it
    only the channels that enter its block, where nothing else reads them. Nothing is exchanged but the sum of the
    outputs, once.

    Args:
        graph_module: what :class:`fxprune.passes.MaskPartition` returned, trained or not.
        folder: an empty one, or one to make; part0, part1, ... are as :func:`fxprune.emit` writes them.

    Returns:
        The folders of the parts.

    Raises:
        EmitError: nothing has blocks, or two chains have; weights across blocks are not zero; what the last layer
            computes is not the one output; or a block has one feature alone.
        LoadError: the folder cannot be written.
    """
    require_arguments(emit_partitions, locals())
    graph_module = require_graph(graph_module, "emit_partitions")
    split = require_partitions(graph_module)
    folder = Path(folder)
    make_folder(folder)
    if any(folder.iterdir()):
        raise EmitError(f"{folder} is not empty; give another folder")
    networks = [_network(graph_module, split, block) for block in range(split.blocks[0].count)]
    _require_sum(graph_module, networks)
    found = [folder / f"part{block}" for block in range(len(networks))]
    for network, part_folder in zip(networks, found, strict=True):
        emit(network, part_folder)
    PartitionPlan.of(graph_module).save(folder / "partition.json")
    write_text(folder / "run.py", SCRIPT)
    return found


class _Split(NamedTuple):
    """A chain whose blocks were noted: of all its layers but for the last."""

    chain: Chain
    blocks: list[WeightBlocks]
    enters_by: str  # the layer whose channels can be left out; "" where inputs are picked by index


def require_partitions(graph_module: fx.GraphModule) -> _Split:
    """Return the chain whose blocks can be networks of their own; raises EmitError as :func:`emit_partitions`."""
    channels = Channels(graph_module)
    found = []
    for chain in find_chains(channels).chains:
        noted = [blocks_of(node, layer.weight) for node, layer in zip(chain.nodes, chain.layers, strict=True)]
        blocks = [one for one in noted[:-1] if one is not None]
        if blocks and len(blocks) < len(noted) - 1:
            raise EmitError(f"only some of {', '.join(chain.paths[:-1])} have blocks: mask the whole chain")
        if blocks:
            found.append(_Split(chain, blocks, _enters_by(channels, chain)))
    if any(one is not None and one.has_rest for one in _noted(graph_module)):
        raise EmitError("parts need something of each other where keep_cross was asked for: leave it out")
    if len(found) != 1:
        chains = " and ".join(one.chain.paths[0] for one in found)
        what = f"there are blocks behind {chains}: keep= all but one" if found else "apply MaskPartition first"
        raise EmitError(f"one network a partition takes one chain of layers with blocks: {what}")
    _require_exact(graph_module, found[0])
    return found[0]


def _noted(graph_module: fx.GraphModule) -> list[WeightBlocks | None]:
    calls = called_modules(graph_module).items()
    return [blocks_of(node, layer.weight) for node, layer in calls if isinstance(layer, nn.Linear)]


def _require_exact(graph_module: fx.GraphModule, split: _Split) -> None:
    """Raise EmitError unless the sum of the parts is what the network computes."""
    chain = split.chain
    (output,) = graph_module.graph.find_nodes(op="output")
    if output.args[0] is not chain.nodes[-1]:
        raise EmitError(
            f"the network does not return what {chain.paths[-1]} computes, which is what parts add up: leave what "
            "comes after it to who reads the sum"
        )
    for path, layer, blocks in zip(chain.paths, chain.layers, split.blocks, strict=False):
        if bool(layer.weight.detach()[~blocks.mask().to(layer.weight.device)].any()):
            raise EmitError(f"{path} has weights across its blocks: fxprune.HeldPartition holds them in a training")
        if min(out for out, _ in blocks.sizes) < 2:
            raise EmitError(f"{path} has blocks of one feature: give MaskPartition fewer blocks")


def _enters_by(channels: Channels, chain: Chain) -> str:
    """Return the layer whose channels enter a chain, if what does not enter a block can be left out.

    It cannot where others read the channels too: each block needs all that these compute.
    """
    readers = {one.node: one for one in channels.walk.readers}
    reader = readers.get(chain.nodes[0])
    if not chain.enters_by or reader is None:
        return ""
    classes = channels.class_of[reader.vectors[0]]
    wanted = channels.flagged(np.unique(classes).tolist())
    read = [one for one in channels.walk.readers if any(wanted[channels.class_of[of]].any() for of in one.vectors)]
    if len(read) > 1 or Movable(channels).obstacle(in_order_of_making(classes)) is not None:
        return ""
    return chain.enters_by


def _require_sum(graph_module: fx.GraphModule, networks: Sequence[fx.GraphModule]) -> None:
    """Raise EmitError unless the parts add up to the network, in float64 on the example inputs."""
    inputs = example_inputs_of(graph_module)
    whole = run_float64(graph_module, inputs)[:1]
    parts = [run_float64(network, inputs)[0] for network in networks]
    _, relative = difference(whole, [torch.stack(parts).sum(0)])
    if relative > TOLERANCE:
        raise EmitError(f"the parts do not add up to the network: they are {relative:.1e} apart; please report it")


def _network(graph_module: fx.GraphModule, split: _Split, block: int) -> fx.GraphModule:
    """Return the network of one block."""
    chain, first = split.chain, split.blocks[0]
    gone = {path: np.flatnonzero(one.rows != block) for path, one in zip(chain.paths, split.blocks, strict=False)}
    inputs = first.columns == block
    if split.enters_by:
        units = np.zeros(chain.widths[0], dtype=bool)
        units[chain.entry[inputs]] = True
        if np.count_nonzero(units) < 2:
            raise EmitError(f"one channel of {split.enters_by} enters a block: give MaskPartition fewer blocks")
        gone[split.enters_by] = np.flatnonzero(~units)
    network = _without(graph_module, gone)
    nodes: dict[Any, fx.Node] = {node.target: node for node in network.graph.find_nodes(op="call_module")}
    rewriter = Rewriter(network, Log(), _MADE_BY)
    for path in chain.paths:
        forget_blocks(nodes[path])
    if not split.enters_by:
        _pick(nodes[chain.paths[0]], inputs, rewriter)
    if block:
        last: Any = called_module(nodes[chain.paths[-1]])
        rewriter.set_layer(nodes[chain.paths[-1]], _without_bias(last))
    remove_unused_state(network)
    network.recompile()
    renew_shapes(network)
    return network


def _without(graph_module: fx.GraphModule, gone: Mapping[str, Array]) -> fx.GraphModule:
    """Return a copy without the output channels ``gone`` of layers, by path, and all that goes with them."""
    network = copy_graph_module(graph_module)
    channels = Channels(network)
    classes = np.concatenate([channels.outputs[path][places] for path, places in gone.items()])
    Cut(channels.walk, set(classes.tolist())).apply()
    return network


def _pick(node: fx.Node, inputs: np.ndarray, rewriter: Rewriter) -> None:
    """Have the first layer read no more than the inputs of its block."""
    layer: Any = called_module(node)
    columns = torch.from_numpy(np.flatnonzero(inputs))
    writer = BlockWriter(node, layer, [], rewriter)
    picked = writer.select(Call(node).operand(0), columns, "inputs")
    rewriter.set_layer(node, part(layer, torch.arange(layer.out_features), columns))
    rewriter.replace_input(node, Call(node).operand(0), picked)


def _without_bias(layer: nn.Linear) -> nn.Module:
    tensors: Any = {"bias": None}
    return with_tensors(layer, tensors)
