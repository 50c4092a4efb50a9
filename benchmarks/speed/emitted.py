"""What a graph is emitted as, loaded."""

from __future__ import annotations

import runpy
import tempfile

from torch import fx, nn

import fxprune


def emitted_model(graph_module: fx.GraphModule) -> nn.Module:
    """Return the model that fxprune emits for the graph, in eval mode."""
    with tempfile.TemporaryDirectory() as folder:
        fxprune.emit(graph_module, folder)
        model: nn.Module = runpy.run_path(f"{folder}/model.py")["load"](folder)
    return model
