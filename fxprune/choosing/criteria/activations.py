"""What criteria see of activations: a forward pass in which every reader's operand is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from fxprune.choosing.samples import Batch
from fxprune.errors import FxpruneValueError, first_line
from fxprune.facts.kept_state import keeping_state
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import as_taken_now
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.running import Read, Running


def look(
    channels: Channels,
    batches: Iterable[Batch],
    note: Callable[[Read, torch.Tensor], None],
    after: Callable[[], None] = lambda: None,
) -> None:
    """Run a graph on ``batches`` in eval mode; ``note`` sees what is read, ``after`` is called behind each batch."""

    def see(read: Read, value: torch.Tensor) -> torch.Tensor:
        note(read, value)
        return value

    graph_module = channels.graph_module
    with keeping_state(graph_module), evaluating(graph_module):
        running = Running(channels, see)
        for batch in batches:
            try:
                running.run(*as_taken_now(graph_module, batch.inputs))
            except RuntimeError as error:
                raise FxpruneValueError(f"the graph does not take a batch of data: {first_line(error)}") from error
            after()
