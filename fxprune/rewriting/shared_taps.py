"""Layers whose taps make up alike for the channels that they do not read any more.

x_c = sum over k of B_ck x'_k + e_c   ->   W'_kt = sum over c of W_ct B_ck,   b' = b + sum over c, t of W_ct e_c
"""

from __future__ import annotations

import torch

from fxprune.facts.counterparts import Counterpart
from fxprune.ir.nodes import called_module
from fxprune.rewriting.refit import Reading
from fxprune.weights.exact import exact
from fxprune.weights.least_squares import Fit


def shares_taps(one: Reading) -> bool:
    """Say whether a layer can be fitted so: it is a conv with a kernel, without groups."""
    return one.geometry.kind == "conv" and one.geometry.groups == 1


class SharedTaps:
    """What a conv read, of which channels are left, and its weights in the unpruned graph.

    Attributes:
        channels, left: how many channels there were, and are.
    """

    def __init__(self, one: Reading, before: Counterpart, source: Counterpart) -> None:
        self._one = one
        layer = called_module(before.node)
        assert layer is not None
        self._weight = before.of(exact(layer.weight).unsqueeze(0))[0]  # type: ignore[arg-type]
        bias = layer._parameters["bias"]
        self._bias = None if bias is None else before.of(exact(bias).unsqueeze(0))[0]
        self.channels, self.left = self._weight.shape[1], one.geometry.channels
        places = source.places.get(1)
        every = torch.arange(self.channels)
        self._places = (every if places is None else torch.from_numpy(places)).to(self._weight.device)

    def has_old_weights(self) -> bool:
        """Say whether the layer still has what is left of its weights in the unpruned graph: what is fitted adds."""
        bias = self._one.layer._parameters["bias"]
        if (bias is None) != (self._bias is None):
            return False
        weight: torch.Tensor = self._one.layer.weight  # type: ignore[assignment]
        is_same = torch.equal(exact(weight), self._weight[:, self._places])
        return is_same and (bias is None or torch.equal(exact(bias), self._bias))  # type: ignore[arg-type]

    def missed(self, x: torch.Tensor, whole: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what is left, what it misses of all channels, and these, as rows; (1, places, channels), float64."""
        read, wanted = _rows(x), _rows(whole)
        rest = wanted.clone()
        rest[:, self._places] -= read
        return read[None], rest[None], wanted[None]

    def spread(self, fit: Fit) -> Fit:
        """Return, for the fit of channels, that of the layer's weights."""
        kernel = self._weight.flatten(2)
        weight = torch.einsum("oct,ck->okt", kernel, fit.weight[0]).flatten(1)
        return fit._replace(weight=weight[None], bias=(kernel.sum(2) @ fit.bias[0])[None])


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.double().movedim(1, -1).flatten(0, -2)
