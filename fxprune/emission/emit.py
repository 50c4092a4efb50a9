"""Write a graph as a folder that needs torch and safetensors only, and read such a folder back.

    fxprune.emit(graph_module, "out/")

    out/model.py               one plain nn.Module, Model(), and load(), which gives it its weights
    out/weights.safetensors    its state dict, under the traced model's own keys
    out/graph.json             the same graph as data: fxprune reads it without executing model.py

``from out.model import load; model = load()`` is how to use the network. Commands of fxprune take the folder's name;
passes and diffs in Python take the graph that :func:`load_emitted` reads.

Where the graph calls functions of torchvision, so does ``model.py``.
On request also ``model.pt2`` (torch.export) and ``model.onnx``, with a free batch size, and free heights and widths.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from torch import fx

from fxprune.emission.formats import Exports, Format, export
from fxprune.emission.seal import FILES, GRAPH, SOURCE, WEIGHTS, read_sealed, sealed
from fxprune.errors import ContractError, EmitError, LoadError, first_line
from fxprune.facts.shapes import UNCHECKED, require_shapes
from fxprune.files import make_folder, replacing_all
from fxprune.ir.arguments import require_arguments
from fxprune.ir.by_mode import TRAIN_INPUTS
from fxprune.ir.nodes import (
    TRACE,
    example_inputs_of,
    keep_example_inputs,
    require_graph,
)
from fxprune.ir.trace_notes import ASSUMPTIONS, Assumption
from fxprune.passes.chains import FINISHING, Norms
from fxprune.rewriting.verify import verify
from fxprune.weights.exact import keep_exact_weights

_LOADER = '''

def load(folder=None):
    """Return Model() with the weights beside this file (or in ``folder``), in eval mode.

    Raises ValueError if they are not those that were written with it.
    """
    import hashlib
    import pathlib

    from safetensors.torch import load as tensors

    here = pathlib.Path(__file__)
    graph, weights = here.with_name("graph.json"), pathlib.Path(folder or here.parent) / "weights.safetensors"
    content = weights.read_bytes()
    if hashlib.sha256(content).hexdigest() != "{weights}":
        raise ValueError(f"{{weights}} was changed, or not written with this model.py; emit the model again")
    if graph.exists() and hashlib.sha256(here.read_bytes()).hexdigest() not in graph.read_text():
        raise ValueError(f"{{here}} was changed, or not written with graph.json; remove that one to use it as it is")
    model = Model()
    model.load_state_dict(tensors(content))
    return model.eval()
'''


def emit(
    graph_module: fx.GraphModule,
    folder: str | os.PathLike[str],
    *,
    formats: Sequence[Format] = (),
    norms: Norms | None = None,
    dynamic: bool = False,
) -> Path:
    """Write ``graph_module`` to ``folder`` as plain PyTorch and return the folder.

    What is to be written is first read back and run, and must compute what the graph computes.

    Args:
        graph_module: a graph without opaque modules, and without layer scales unless ``norms`` is given.
        folder: made if it does not exist; existing files of an earlier emit in it are replaced.
        formats: "pt2" for torch.export, "onnx" for ONNX (extra ``onnx``), beside the source.
        norms: make a plain network of it first, by the passes after training: "fold" puts batch norms into the
            weights, for inference; "keep" leaves them, to be trained on. Those that were folded before stay folded.
        dynamic: whether these take images (N, C, H, W) of any height and width, and not only of any number.

    Raises:
        ContractError: the passes after training changed what the graph computes: a fault of ours.
        EmitError: plain PyTorch cannot express the graph, or :func:`load_emitted` could not read it (names node or
            module), or a file of another origin would be overwritten, or the disk is full or read-only, or with
            ``dynamic`` the network takes images of one size alone (says why). What was in the folder is still there
            then.
    """
    from safetensors.torch import save  # this, and what follows, is loaded when something is first emitted

    from fxprune.emission.content import content_of, functional_model

    require_arguments(emit, locals())
    graph_module = require_graph(graph_module, "emit")
    if norms is not None:
        graph_module = _finished(graph_module, norms)
    require_shapes(graph_module)
    out = Path(folder)
    _require_no_files_of_others(out)
    exports = Exports(tuple(formats), dynamic)
    content = content_of(graph_module)
    weights = save(content.state)
    try:
        make_folder(out)
        with replacing_all(out, FILES) as unfinished:
            (unfinished / WEIGHTS).write_bytes(weights)
            loader = _LOADER.format(weights=hashlib.sha256(weights).hexdigest())
            (unfinished / SOURCE).write_text(content.source + loader, encoding="utf-8", newline="\n")
            if formats:
                model = functional_model(graph_module, content)
                export(model, example_inputs_of(graph_module), unfinished, exports)
            (unfinished / GRAPH).write_text(json.dumps(sealed(content.data, unfinished), indent=1) + "\n")
    except LoadError as error:
        raise EmitError(str(error)) from error
    return out


def _finished(graph_module: fx.GraphModule, norms: Norms) -> fx.GraphModule:
    """Return the plain network that the passes after training make, and hold them to what it computed."""
    finished = graph_module
    with keep_exact_weights():  # what is compared is the algebra, not the rounding
        for one in FINISHING[norms]:
            finished = one(finished).graph_module
        found = verify(graph_module, finished, example_inputs_of(graph_module))
    if not found.equal:
        raise ContractError(f"the passes after training changed what the graph computes: {found}; please report it")
    return finished


def _require_no_files_of_others(out: Path) -> None:
    """Raise EmitError if a file would be overwritten that is not that of an emitted model."""
    taken = [name for name in FILES if (out / name).exists()]
    if taken and not is_emitted(out):
        raise EmitError(f"{out / taken[0]} is there and was not written by fxprune; give another folder")


def source_obstacle(graph_module: fx.GraphModule) -> str | None:
    """Return why :func:`emit` cannot write ``graph_module`` as source; None if nothing speaks against it."""
    from fxprune.emission.content import require_source

    try:
        require_source(graph_module)
    except EmitError as error:
        return str(error)
    return None


def is_emitted(folder: Path) -> bool:
    """Say whether ``folder`` looks like one that :func:`emit` wrote."""
    return folder.is_dir() and (folder / GRAPH).is_file()


def load_emitted(folder: str | os.PathLike[str]) -> fx.GraphModule:
    """Read a folder that :func:`emit` wrote back as a graph in eval mode, for passes; no code in it is executed.

    To use the network, call ``load()`` of its ``model.py`` instead, which needs no fxprune.
    Nothing in it is run either: the shapes that it tells are checked when something first needs them.
    Raises LoadError if a file is missing, is not what was written with the others, or names what it may not.
    """
    from safetensors.torch import load as tensors

    from fxprune.emission.constants import examples_from_data
    from fxprune.emission.graph_data import give_weights, graph_from_data

    require_arguments(load_emitted, locals())
    root = Path(folder)
    data, weights = read_sealed(root)
    try:
        graph_module = graph_from_data(data)
        give_weights(graph_module, data, tensors(weights))
        inputs = examples_from_data(data["examples"])
        train_inputs = examples_from_data(data.get("train_examples"))
        graph_module.meta[ASSUMPTIONS] = tuple(Assumption(**entry) for entry in data["assumptions"])
        if inputs is not None:
            keep_example_inputs(graph_module, inputs)
            graph_module.meta[UNCHECKED] = True
        if train_inputs is not None:
            graph_module.meta[TRAIN_INPUTS] = tuple(train_inputs)
        if data["trace"] is not None:
            graph_module.meta[TRACE] = str(data["trace"])
        return graph_module.eval()
    except LoadError as error:
        raise LoadError(f"{root}: {error}") from error
    except Exception as error:  # whatever damaged data may cause
        raise LoadError(f"{root} is damaged: {type(error).__name__}: {first_line(error)}") from error
