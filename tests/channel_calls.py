"""Calls that leave channels where they are, or move them, a forward each; and calls in which channels stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.video import mvit

Forward = Callable[["Net", torch.Tensor], Any]


class Net(nn.Module):
    """Layers that every forward may call; those that it does not are not in its graph."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self._forward = forward
        self.one, self.two, self.three = (nn.Conv2d(3, 8, 3, padding=1) for _ in range(3))
        self.head, self.few, self.twice = nn.Conv2d(8, 5, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(16, 5, 1)
        self.linear, self.rows, self.eca = nn.Linear(8, 5), nn.Linear(8, 8), nn.Conv1d(1, 1, 3, padding=1)
        self.slopes, self.square = nn.Parameter(torch.rand(8)), nn.Parameter(torch.randn(8, 8))
        self.wide, self.wider, self.table = nn.Linear(8, 16), nn.Linear(8, 16), nn.Embedding(7, 6)
        self.columns, self.parted = nn.Parameter(torch.randn(8, 5)), nn.Unflatten(1, (2, 4))

    def forward(self, x: torch.Tensor) -> Any:
        return self._forward(self, x)


def of_maps(what: Callable[[torch.Tensor], torch.Tensor]) -> Forward:
    """Return the forward in which a head reads what becomes of a feature map."""
    return lambda net, x: net.head(what(net.one(x)))


def of_two(what: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Forward:
    """Return likewise of two feature maps."""
    return lambda net, x: net.head(what(net.one(x), net.two(x)))


def of_means(what: Callable[[torch.Tensor], torch.Tensor]) -> Forward:
    """Return the forward in which a linear layer reads what is left of a feature map."""
    return lambda net, x: net.linear(what(net.one(x)))


def changed_in_place(y: torch.Tensor) -> torch.Tensor:
    """Return a map some of whose elements were written over."""
    y = y.add_(1)
    return y.masked_fill_(y < 0.1, -1.0)


def parts_of(y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the first half of the channels, and the rest, however many these are."""
    found: tuple[torch.Tensor, ...] = torch.split(y, [4, y.shape[1] - 4], 1)
    return found


def looked_up(y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Return the pixels where another map is largest, averaged."""
    return y.flatten(2).gather(2, z.flatten(2).topk(4, 2)[1]).mean(2)[..., None, None]


def some_tokens(net: Net, x: torch.Tensor) -> Any:
    """Return what a head reads of some tokens, by indices that are the same for all channels."""
    index, y = x.mean(1).flatten(1).argsort(1)[:, :5], net.one(x)
    return net.linear(y.flatten(2).transpose(1, 2).gather(1, index[..., None].expand(-1, -1, 8)).mean(1))


def turned_in_heads(net: Net, x: torch.Tensor) -> torch.Tensor:
    """Return two heads of size 8, whose pairs of channels are turned by position, multiplied and averaged."""
    q, k = (layer(x).unflatten(2, (2, 8)).transpose(1, 2) for layer in (net.wide, net.wider))
    places = torch.arange(x.shape[1]).to(x.dtype)
    sine, cosine = ((places[:, None] * net.slopes).sin(), (places[:, None] * net.slopes).cos())
    q, k = (one * cosine + torch.stack((-one[..., 1::2], one[..., ::2]), -1).flatten(-2) * sine for one in (q, k))
    return torch.einsum("bhnc,bhmc,bmd->bd", q, k, x)


FREE: dict[str, Forward] = {
    # of each element
    "where": lambda net, x: net.head(torch.where(net.one(x) > 0, net.two(x), net.three(x))),
    "where_method": of_two(lambda y, z: y.where(z > 0, 0.0)),
    "where_pixels": lambda net, x: net.head(torch.where(x[:, :1] > 0, net.one(x), -1.0)),
    "masked_fill": lambda net, x: net.head(net.one(x).masked_fill(x[:, :1] > 0, 0.0)),
    "masked_fill_own": of_maps(lambda y: torch.masked_fill(y, y < 0.1, -1.0)),
    "masked_fill_in_place": of_maps(changed_in_place),
    "lerp": of_two(lambda y, z: torch.lerp(y, z, 0.3) + y.lerp(z, z.sigmoid())),
    "addcmul": lambda net, x: net.head(torch.addcmul(net.one(x), net.two(x), net.three(x), value=0.5)),
    "addcdiv": of_two(lambda y, z: y.addcdiv(z, z.exp())),
    "clamp": lambda net, x: net.head(net.one(x).clamp(-net.slopes.view(8, 1, 1), net.slopes.view(8, 1, 1))),
    "logic": of_two(lambda y, z: y * ((y > 0) & (z > 0) | (z < -1)).float()),
    "of_each": of_maps(lambda y: y.tan() + torch.sign(y) + torch.log1p(y.abs()) + torch.expm1(y).nan_to_num()),
    "of_two": of_two(lambda y, z: torch.atan2(y, z) + torch.hypot(y, z) + torch.logaddexp(y, z)),
    "threshold": of_maps(lambda y: F.threshold(y, 0.1, 0.0)),
    "bool": of_maps(lambda y: y * (y > 0).long() + y.relu().bool().int()),
    "max_of_two": of_two(torch.max),
    "full": lambda net, x: net.head(net.one(x) + torch.full((x.shape[0], 8, 1, 1), 0.5, dtype=x.dtype)),
    "new_full": of_maps(lambda y: y + y.new_full((y.shape[0], 8, 1, 1), 0.5) + y.new_full(y.shape, 1.0)),
    "numbers_as_values": of_maps(
        lambda y: (
            y.new_full((y.shape[0], 8, 1, 1), y.shape[1] ** -0.5)
            + F.pad(y, (y.shape[1], 0), value=y.shape[1])[..., :-8]
            + torch.full((y.shape[0], y.size(1), 1, 1), y.shape[1] / 3, dtype=y.dtype)
        )
    ),
    "full_like": of_maps(lambda y: torch.where(y > 0, y, torch.full_like(y, 0.5)) + torch.ones_like(y)),
    # over space
    "amax": of_means(lambda y: y.amax((2, 3)) + y.max(3)[0].min(2).values + torch.max(y, dim=3)[0].mean(2)),
    "logsumexp": of_means(lambda y: torch.logsumexp(y, (2, 3)) + y.logsumexp((2, 3))),
    "std": of_means(lambda y: y.std((2, 3)) + torch.std(y, (2, 3), correction=0) + torch.var(y, (2, 3), True)),
    "var_mean": of_means(lambda y: torch.add(*torch.var_mean(y, (2, 3)))),
    "std_mean": of_maps(lambda y: y / torch.std_mean(y, dim=(2, 3), keepdim=True)[0]),
    "norms": of_means(lambda y: y.norm(dim=(2, 3)) + torch.linalg.vector_norm(y, dim=(2, 3))),
    "prod": of_means(lambda y: y.prod(3).mean(2)),
    "median": of_means(lambda y: y.flatten(2).median(2).values),
    "any": of_maps(lambda y: y * (y > 2).any(3, keepdim=True).all(2, keepdim=True)),
    "topk": of_means(lambda y: y.flatten(2).topk(4, dim=2)[0].mean(2) + torch.topk(y.flatten(2), 4)[0].mean(2)),
    "sort": of_means(lambda y: y.flatten(2).sort(2)[0][:, :, :5].mean(2)),
    "argmax": of_two(lambda y, z: y * z.argmax(3, keepdim=True) + y.argsort(3)),
    "gather": of_two(looked_up),
    "gather_tokens": some_tokens,
    "normalize": of_maps(lambda y: F.normalize(y, dim=2)),
    "cumprod": of_maps(lambda y: y.cumprod(2)),
    "grid_sample": of_maps(lambda y: F.grid_sample(y, y.new_zeros(y.shape[0], 4, 4, 2) + 0.1, align_corners=False)),
    # movement
    "movedim": of_means(lambda y: y.movedim(1, -1) + y.movedim((1, 2), (3, 1)) + torch.moveaxis(y, 1, 3)),
    "turned": of_means(lambda y: y.flatten(2).mT + y.flatten(2).adjoint()),
    "turned_twice": of_means(lambda y: y.mean((2, 3)).T.t()),
    "tile": of_maps(lambda y: y.tile(1, 1, 2, 1) + torch.tile(y, (1, 1, 2, 1)) + y.tile(2, 1)),
    "tile_channels": lambda net, x: net.twice(net.one(x).tile(1, 2, 1, 1)),
    "repeat_interleave": of_maps(
        lambda y: y.repeat_interleave(2, dim=2) + torch.repeat_interleave(y, 2, 3).transpose(2, 3)
    ),
    "repeat_channels": lambda net, x: net.twice(net.one(x).repeat_interleave(2, dim=1)),
    "repeat_a_mask": of_maps(lambda y: y * y.mean(2, keepdim=True).amax(3, keepdim=True).repeat(1, 1, 8, 8)),
    "repeat_to_channels": lambda net, x: net.head(
        net.one(x) + x[:, :1].repeat(1, 8, 1, 1) + x[:, :1].repeat_interleave(8, 1) * x[:, :1].tile(8, 1, 1)
    ),
    "broadcast_to": of_two(lambda y, z: y + z.mean((2, 3), keepdim=True).broadcast_to(y.shape)),
    "tensor_split": lambda net, x: sum(net.few(one) for one in net.one(x).tensor_split(2, 1)),
    "tensor_split_by_name": of_maps(lambda y: torch.cat(torch.tensor_split(y, indices=(3,), dim=1)[::-1], 1)),
    "tensor_split_uneven": of_maps(lambda y: torch.cat(torch.tensor_split(y, (3,), 1)[::-1], 1)),
    "split_by_a_width": lambda net, x: sum(map(net.few, parts_of(net.one(x)))),
    "axis_added": of_maps(lambda y: mvit._squeeze(mvit._unsqueeze(y, 5, 1)[0], 5, 1, 4)),
    "select": of_means(lambda y: y.select(2, 0).mean(2) + torch.select(y, 3, 1)[..., 0]),
    "index_select": of_maps(lambda y: y.index_select(2, torch.tensor([0, 2])) + y[:, :, [0, 2]]),
    "listed": lambda net, x: net.few(net.one(x)[:, [0, -6, 5, 7]]),
    "every_other": lambda net, x: net.few(net.one(x)[:, 1::2]),
    "even_and_odd": of_maps(lambda y: torch.cat([y[:, ::2], y[:, 1::2]], 1)),
    "pairs": of_maps(lambda y: torch.stack([-y[:, 1::2], y[:, ::2]], 2).flatten(1, 2)),
    "unflatten": lambda net, x: net.few(net.one(x).unflatten(1, (2, 4)).sum(1) + net.parted(net.two(x)).sum(1)),
    "glu": lambda net, x: net.few(F.glu(net.one(x), 1)),
    "embedded": lambda net, x: net.head(
        net.table(net.one(x).to(torch.int64).clamp(0, 6)) @ net.slopes[:6] + net.two(x)
    ),
    "rotated": lambda net, x: net.linear(turned_in_heads(net, net.one(x).flatten(2).mT)),
    "windows": of_means(lambda y: F.unfold(y, 3, padding=1).view(y.shape[0], 8, 9, -1).mean((2, 3))),
    "windows_added": of_maps(lambda y: F.fold(F.unfold(y, 2, stride=2), y.shape[2:], 2, stride=2)),
    "windows_of_an_axis": of_means(lambda y: y.unfold(2, 2, 2).unfold(3, 2, 2).mean((2, 3, 4, 5))),
    # products
    "turned_weight": lambda net, x: (
        F.linear(net.one(x).mean((2, 3)), net.columns.t(), net.slopes[:5])
        + F.linear(net.one(x).mean((2, 3)), net.columns.T)
    ),
    "tied": lambda net, x: F.linear(net.rows(net.one(x).mean((2, 3))), net.rows.weight.t()),
    "turned_factor": lambda net, x: net.linear(net.one(x).mean((2, 3)) @ net.square.t()),
    "computed_weight": lambda net, x: net.linear(F.linear(net.one(x).mean((2, 3)), net.square.exp(), net.slopes * 2)),
    "einsum_of_three": lambda net, x: net.head(torch.einsum("bchw,bchw,c->bchw", net.one(x), net.two(x), net.slopes)),
    "einsum_with_rows": lambda net, x: net.linear(torch.einsum("bchw,dc,d->bd", net.one(x), net.square, net.slopes)),
    "einsum_with_dots": lambda net, x: net.linear(torch.einsum("bc...,cd->b...d", net.one(x), net.square)),
    "einsum_of_one": of_means(lambda y: torch.einsum("bchw->bc", y) + torch.einsum("bchw->bwhc", y).mean((1, 2))),
    "einsum_without_an_output": lambda net, x: net.linear(
        torch.einsum("...c,cd", net.one(x).mean((2, 3)), net.square)
    ),
    "vector": lambda net, x: net.one(x).permute(0, 2, 3, 1) @ net.slopes,
    "vector_first": lambda net, x: net.slopes @ net.one(x).flatten(2),
    "mv": lambda net, x: torch.mv(net.one(x).mean((2, 3)), net.slopes),
    "addmm": lambda net, x: net.linear(torch.addmm(net.slopes, net.one(x).mean((2, 3)), net.square)),
    "baddbmm": lambda net, x: net.linear(
        torch.baddbmm(net.two(x).flatten(2).mT, net.one(x).flatten(2).mT, net.square.expand(x.shape[0], 8, 8))
    ),
    "addbmm": lambda net, x: torch.addbmm(x.new_zeros(8, 8), net.one(x).amax(3).mT, net.two(x).amax(3)),
}
"""All channels of these can go, but those of outputs."""
STAYS: dict[str, tuple[str, Forward]] = {
    "conv_over_channels": (
        "slides over the axis that they are on",
        lambda net, x: net.head(net.one(x) * net.eca(net.one(x).mean((2, 3))[:, None]).transpose(1, 2)[..., None]),
    ),
    "largest_of_all": ("mixes all channels", of_maps(lambda y: y / y.max())),
    "largest_channel": ("mixes all channels", of_maps(lambda y: y * y.max(1, keepdim=True)[1])),
    "topk_channels": ("mixes all channels", lambda net, x: net.few(net.one(x).topk(4, 1)[0])),
    "sorted_channels": ("mixes all channels", of_maps(lambda y: y.sort(1).values)),
    "listed_by_a_tensor": (
        "is indexed along the axis that they are on",
        lambda net, x: net.few(net.one(x).index_select(1, torch.tensor([0, 2, 5, 7]))),
    ),
    "gathered_channels": (
        "is indexed along the axis that they are on",
        of_two(lambda y, z: y.gather(1, z.argsort(2).clamp(max=7))),
    ),
    "one_by_select": ("takes one of the channels", of_maps(lambda y: y * y.select(1, 3)[:, None])),
    "positions": ("meets what has no channels there", of_maps(lambda y: y * torch.arange(8).view(8, 1, 1))),
    "repeated_by_a_tensor": (
        "is repeated in a way that is not known",
        lambda net, x: net.twice(net.one(x).repeat_interleave(torch.tensor([2] * 8), 1)),
    ),
    "turned_backwards": ("its T is read", lambda net, x: net.one(x).mean(3).permute(2, 1, 0).T @ net.columns),
    "added_and_multiplied": (
        "adds what it multiplies",
        lambda net, x: torch.addmm(net.square, net.square, net.one(x).flatten(1)[:1].view(8, 64)[:, :8]),
    ),
    "summed_behind_the_first": (
        "sums over them",
        lambda net, x: torch.einsum("bhw,bchw,bchw->b", x[:, 0], net.one(x), net.two(x)),
    ),
}
"""Nothing of these can go, and the first reason is this one."""
