"""Random networks for channels: every kind of movement, mixing, integer and sharing, one after the other."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Tensor = torch.Tensor
Step = Callable[["RandomNet", list[Tensor]], Tensor]
"""What makes one more feature map of those that there are."""
Made = tuple[int, Step] | None
"""The channels of the map that a step makes, and the step; None where it does not fit."""

STEPS: dict[str, tuple[int, Callable[[Builder, int, int], Made]]] = {}
SIZE = 8


def step(often: int = 1) -> Callable[[Any], Any]:
    """Have a function be one of the steps, ``often`` times as likely as others."""

    def register(make: Any) -> Any:
        STEPS[make.__name__] = (often, make)
        return make

    return register


class RandomNet(nn.Module):
    """A stem, steps that are drawn, and a head on some of the maps."""

    def __init__(self, seed: int, length: int = 6) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        self.free = nn.ParameterList()
        builder = Builder(self, seed)
        self.steps, self.names = builder.build(length)
        self.outputs = builder.outputs()

    def forward(self, x: Tensor) -> Any:
        maps = [x]
        for one in self.steps:
            maps.append(one(self, maps).contiguous())
        return [one(self, maps) for one in self.outputs]


class Builder:
    """Draws the steps of one network; ``widths`` are the channels of its maps, the first of which is the image."""

    def __init__(self, net: RandomNet, seed: int) -> None:
        self.net = net
        self.draw = random.Random(seed)
        self.widths = [3]

    def build(self, length: int) -> tuple[list[Step], list[str]]:
        steps, names = [self._stem()], ["stem"]
        kinds = list(STEPS)
        often = [STEPS[one][0] for one in kinds]
        while len(steps) <= length:
            kind = self.draw.choices(kinds, often)[0]
            place = self.draw.randrange(max(1, len(self.widths) - 3), len(self.widths))
            made = STEPS[kind][1](self, place, self.widths[place])
            if made is None or not 4 <= made[0] <= 24:
                continue
            self.widths.append(made[0])
            steps.append(made[1])
            names.append(kind)
        return steps, names

    def _stem(self) -> Step:
        width = self.draw.choice([6, 8, 12, 16])
        self.widths.append(width)
        part = self.part(nn.Conv2d(3, width, 3, padding=1))
        return lambda net, maps: net.parts[part](maps[0])

    def outputs(self) -> list[Step]:
        """Return a head for the last map, and at times for another."""
        places = [len(self.widths) - 1, *self.draw.choices(range(1, len(self.widths)), k=self.draw.randrange(2))]
        return [self._head(place) for place in places]

    def _head(self, place: int) -> Step:
        width, kind = self.widths[place], self.draw.randrange(3)
        if kind == 0:
            part = self.part(nn.Conv2d(width, 3, 1))
            return lambda net, maps: net.parts[part](maps[place])
        if kind == 1:
            part = self.part(nn.Linear(width, 3))
            return lambda net, maps: net.parts[part](maps[place].mean((2, 3)))
        part = self.part(nn.Linear(width * 4, 3))
        return lambda net, maps: net.parts[part](F.adaptive_avg_pool2d(maps[place], 2).flatten(1))

    def part(self, layer: nn.Module) -> int:
        """Add a layer; return its place."""
        self.net.parts.append(layer)
        return len(self.net.parts) - 1

    def parameter(self, *shape: int) -> int:
        """Add a parameter; return its place."""
        self.net.free.append(nn.Parameter(torch.rand(shape) + 0.5))
        return len(self.net.free) - 1

    def alike(self, width: int) -> int:
        """Return the place of a map of this width: the last, or any."""
        return self.draw.choice([place for place, one in enumerate(self.widths) if one == width])

    def divisor(self, width: int) -> int:
        """Return a number of groups for this width, more than one."""
        return self.draw.choice([one for one in range(2, width + 1) if width % one == 0])


def on(place: int, what: Callable[[RandomNet, Tensor], Tensor]) -> Step:
    """Return the step that computes ``what`` of one map."""
    return lambda net, maps: what(net, maps[place])


def layer(b: Builder, place: int, width: int, made: nn.Module) -> Made:
    """Return the step that calls a new layer."""
    part = b.part(made)
    return width, on(place, lambda net, x: net.parts[part](x))


# layers


@step(4)
def conv(b: Builder, place: int, width: int) -> Made:
    size, out = b.draw.choice([1, 3]), b.draw.choice([6, 8, 12])
    return layer(b, place, out, nn.Conv2d(width, out, size, padding=size // 2))


@step(2)
def grouped(b: Builder, place: int, width: int) -> Made:
    groups = b.divisor(width)
    out = groups * b.draw.choice([1, 2, 3])
    return layer(b, place, out, nn.Conv2d(width, out, 3, padding=1, groups=groups))


@step()
def transposed(b: Builder, place: int, width: int) -> Made:
    groups = b.draw.choice([1, b.divisor(width)])
    out = groups * b.draw.choice([1, 2, 3])
    return layer(b, place, out, nn.ConvTranspose2d(width, out, 3, padding=1, groups=groups))


@step(2)
def shared(b: Builder, place: int, width: int) -> Made:
    known = [n for n, one in enumerate(b.net.parts) if isinstance(one, nn.Conv2d) and one.in_channels == width]
    if not known:
        return None
    part = b.draw.choice(known)
    out: Any = b.net.parts[part]
    return out.out_channels, on(place, lambda net, x: net.parts[part](x.relu()))


@step()
def tied(b: Builder, place: int, width: int) -> Made:
    known = [one for one in b.net.parts if isinstance(one, nn.Conv2d) and one.in_channels == width]
    if not known:
        return None
    other: Any = b.draw.choice(known)
    new = nn.Conv2d(width, other.out_channels, other.kernel_size, padding=other.padding, groups=other.groups)
    new.weight = other.weight
    return layer(b, place, other.out_channels, new)


@step(2)
def norm(b: Builder, place: int, width: int) -> Made:
    kinds = [nn.BatchNorm2d(width), nn.InstanceNorm2d(width, affine=True), nn.PReLU(width)]
    return layer(b, place, width, b.draw.choice([*kinds, nn.GroupNorm(b.divisor(width), width)]))


@step()
def functional(b: Builder, place: int, width: int) -> Made:
    weight, bias = b.parameter(6, width, 1, 1), b.parameter(6)
    return 6, on(place, lambda net, x: F.conv2d(x, net.free[weight], net.free[bias]))


@step()
def functional_depthwise(b: Builder, place: int, width: int) -> Made:
    weight, literal = b.parameter(width, 1, 3, 3), b.draw.random() < 0.5
    return width, on(
        place,
        lambda net, x: F.conv2d(x, net.free[weight], padding=1, groups=width if literal else x.shape[1]),
    )


@step()
def functional_norm(b: Builder, place: int, width: int) -> Made:
    weight, groups = b.parameter(width), b.divisor(width)
    return width, on(place, lambda net, x: F.group_norm(x, groups, net.free[weight]))


@step()
def product_with_a_weight(b: Builder, place: int, width: int) -> Made:
    weight = b.parameter(6, width)
    forms = [
        lambda net, x: torch.einsum("bchw,dc->bdhw", x, net.free[weight]),
        lambda net, x: (net.free[weight] @ x.flatten(2)).view(x.shape[0], 6, x.shape[2], x.shape[3]),
        lambda net, x: F.linear(x.permute(0, 2, 3, 1), net.free[weight]).permute(0, 3, 1, 2),
        lambda net, x: F.linear(x.movedim(1, -1), net.free[weight].exp() * 2).movedim(-1, 1),
        lambda net, x: (x.movedim(1, -1) @ net.free[weight].t()).movedim(-1, 1),
        lambda net, x: torch.einsum("...chw,dc->...dhw", x, net.free[weight].T.mT),
        lambda net, x: torch.einsum("bchw,dc,d->bdhw", x, net.free[weight], net.free[weight].mean(1)),
        lambda net, x: torch.addmm(net.free[weight][:, 0], x.mean((2, 3)), net.free[weight].t())[
            ..., None, None
        ].expand(-1, -1, *x.shape[2:]),
    ]
    return 6, on(place, b.draw.choice(forms))


@step()
def over_width(b: Builder, place: int, width: int) -> Made:
    return layer(b, place, width, nn.Linear(SIZE, SIZE))


# several maps


@step(4)
def together(b: Builder, place: int, width: int) -> Made:
    other = b.alike(width)
    forms = [torch.add, torch.mul, torch.maximum, lambda x, y: x - 2 * y, lambda x, y: torch.stack([x, y], 2).sum(2)]
    form: Any = b.draw.choice(forms)
    return width, lambda net, maps: form(maps[place], maps[other])


@step(2)
def chosen(b: Builder, place: int, width: int) -> Made:
    other, third = b.alike(width), b.alike(width)
    forms: Sequence[Any] = [
        lambda x, y, z: torch.where(x > y, y, z),
        lambda x, y, z: x.where(z > 0, 0.5),
        lambda x, y, z: x.masked_fill(y[:, :1] > 0, 0.1) + y.masked_fill(y < z, -0.3),
        lambda x, y, z: x.lerp(y, 0.3) + torch.lerp(x, y, z.sigmoid()),
        lambda x, y, z: torch.addcmul(x, y, z, value=0.5),
        lambda x, y, z: x * ((y > 0) & (z < 0.5) | (x > 1)).float(),
        lambda x, y, z: torch.max(x, y) + torch.full_like(z, 0.5),
        lambda x, y, z: x + torch.full((x.shape[0], width, 1, 1), 0.5, dtype=x.dtype) * y.new_full(y.shape, 0.2),
    ]
    form = b.draw.choice(forms)
    return width, lambda net, maps: form(maps[place], maps[other], maps[third])


@step(2)
def taken(b: Builder, place: int, width: int) -> Made:
    other = b.alike(width)
    forms: Sequence[Any] = [
        lambda x, y: x * y.max(3, keepdim=True)[0] + y.min(2, keepdim=True).values,
        lambda x, y: x * y.logsumexp((2, 3), keepdim=True) + torch.std(y, (2, 3), keepdim=True, correction=0),
        lambda x, y: x.gather(3, y.argsort(3)),
        lambda x, y: x.sort(3)[0] + y.topk(2, 2)[0].mean(2, keepdim=True),
        lambda x, y: x * torch.var_mean(y, (2, 3), keepdim=True)[1] + y.argmax(2, keepdim=True),
        lambda x, y: x.index_select(2, torch.tensor([0, 2, 1, 4])).sum(2, keepdim=True) + y,
        lambda x, y: torch.baddbmm(x.flatten(2), (y.mean((2, 3))[:, :, None]), x.mean(1).flatten(1)[:, None]).view(
            x.shape
        ),
        lambda x, y: torch.einsum("bc...,bc...,bchw->bchw", x.mean((2, 3)), y.mean((2, 3)), x),
    ]
    form = b.draw.choice(forms)
    return width, lambda net, maps: form(maps[place], maps[other])


@step(2)
def catted(b: Builder, place: int, width: int) -> Made:
    others = [place, *b.draw.choices(range(1, len(b.widths)), k=b.draw.choice([1, 2]))]
    b.draw.shuffle(others)
    return sum(b.widths[one] for one in others), lambda net, maps: torch.cat([maps[one] for one in others], 1)


@step()
def stacked(b: Builder, place: int, width: int) -> Made:
    other, axis = b.alike(width), b.draw.choice([1, 2])
    return 2 * width, lambda net, maps: torch.stack([maps[place], maps[other]], axis).flatten(1, 2)


@step()
def spatial_mask(b: Builder, place: int, width: int) -> Made:
    part = b.part(nn.Conv2d(width, 1, 1))
    return width, on(place, lambda net, x: x * torch.sigmoid(net.parts[part](x)).expand_as(x))


@step(2)
def squeeze_excite(b: Builder, place: int, width: int) -> Made:
    down, up = b.part(nn.Linear(width, 4)), b.part(nn.Linear(4, width))

    def run(net: RandomNet, x: Tensor) -> Any:
        n, c = x.shape[:2]
        return x * torch.sigmoid(net.parts[up](net.parts[down](x.mean((2, 3))).relu())).view(n, c, 1, 1)

    return width, on(place, run)


@step()
def attention(b: Builder, place: int, width: int) -> Made:
    part, heads = b.part(nn.Conv2d(width, 24, 1)), b.draw.choice([2, 4])
    layout = b.draw.choice([(3, heads), (heads, 3)])

    def run(net: RandomNet, x: Tensor) -> Any:
        n, _, h, w = x.shape
        y = net.parts[part](x).reshape(n, *layout, 8 // heads, h * w)
        q, k, v = (y if layout[0] == 3 else y.transpose(1, 2)).unbind(1)
        scores = (q.transpose(-2, -1) @ k) * q.shape[2] ** -0.5
        return (v @ scores.softmax(-2)).reshape(n, -1, h, w)

    return 8, on(place, run)


@step()
def gram(b: Builder, place: int, width: int) -> Made:
    def run(net: RandomNet, x: Tensor) -> Any:
        y = x.flatten(2)
        return (y @ y.transpose(1, 2) @ y).view(x.shape) / SIZE**2

    return width, on(place, run)


# movement


@step(2)
def halves(b: Builder, place: int, width: int) -> Made:
    if width % 2:
        return None
    forms = [
        lambda net, x: torch.cat(x.chunk(2, 1)[::-1], 1),
        lambda net, x: torch.cat([x[:, x.shape[1] // 2 :], x[:, : x.shape[1] // 2]], 1),
        lambda net, x: torch.cat(x.split(x.size(1) // 2, 1), 1).flip(1),
        lambda net, x: torch.cat([x.narrow(1, width // 2, width // 2), x.narrow(1, 0, width // 2)], 1),
    ]
    return width, on(place, b.draw.choice(forms))


@step()
def uneven(b: Builder, place: int, width: int) -> Made:
    cut = b.draw.randrange(1, width)

    def run(net: RandomNet, x: Tensor) -> Any:
        first, second = torch.split(x, [cut, width - cut], 1)
        return torch.cat([second, first.relu()], 1)

    return width, on(place, run)


@step()
def gated_half(b: Builder, place: int, width: int) -> Made:
    if width % 2:
        return None

    def run(net: RandomNet, x: Tensor) -> Any:
        first, second = x.chunk(2, 1)
        return first * second.sigmoid()

    return width // 2, on(place, run)


@step()
def part_of(b: Builder, place: int, width: int) -> Made:
    start, stop = sorted(b.draw.sample(range(width + 1), 2))
    index = b.draw.choice([slice(start, stop), slice(start - width or None, None), slice(start, None), slice(stop)])
    return len(range(width)[index]), on(place, lambda net, x: x[:, index])


@step(2)
def shuffled(b: Builder, place: int, width: int) -> Made:
    groups = b.divisor(width)

    def run(net: RandomNet, x: Tensor) -> Any:
        n, c, h, w = x.shape
        return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)

    return width, on(place, b.draw.choice([run, lambda net, x: F.channel_shuffle(x, groups)]))


@step()
def folded(b: Builder, place: int, width: int) -> Made:
    groups, first = b.divisor(width), b.draw.random() < 0.5
    out = width // groups if first else groups

    def run(net: RandomNet, x: Tensor) -> Any:
        return x.view(x.shape[0], groups, -1, *x.shape[2:]).amax(1 if first else 2)

    return out, on(place, run)


@step()
def into_the_batch(b: Builder, place: int, width: int) -> Made:
    if width % 2:
        return None
    part = b.part(nn.Conv2d(width // 2, 3, 1))

    def run(net: RandomNet, x: Tensor) -> Any:
        n, c, h, w = x.shape
        return net.parts[part](x.reshape(n * 2, c // 2, h, w)).reshape(n, -1, h, w)

    return 6, on(place, run)


@step()
def all_in_the_batch(b: Builder, place: int, width: int) -> Made:
    part = b.part(nn.Conv2d(1, 1, 3, padding=1))

    def run(net: RandomNet, x: Tensor) -> Any:
        y = net.parts[part](x.reshape(x.shape[0] * x.shape[1], 1, *x.shape[2:]))
        return y.view(x.size(0), -1, x.size(2), x.size(3))

    return width, on(place, run)


@step()
def pixels(b: Builder, place: int, width: int) -> Made:
    forms = [
        lambda net, x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2),
        lambda net, x: F.interpolate(F.pixel_unshuffle(x, 2), scale_factor=2.0),
    ]
    place_of = b.draw.randrange(2)
    return width * (1 + 3 * place_of), on(place, forms[place_of])


@step()
def padded(b: Builder, place: int, width: int) -> Made:
    before, after = b.draw.randrange(3), b.draw.randrange(3)
    forms = [
        lambda net, x: F.pad(x, (0, 0, 0, 0, before, after)),
        lambda net, x: torch.cat([torch.zeros_like(x)[:, :before], x, x[:, :after]], 1),
    ]
    return width + before + after, on(place, b.draw.choice(forms))


@step(2)
def listed(b: Builder, place: int, width: int) -> Made:
    places = [b.draw.randrange(-width, width) for _ in range(b.draw.randrange(4, 12))]
    every = b.draw.choice([2, 3])
    forms: Sequence[tuple[int, Any]] = [
        (len(places), lambda net, x: x[:, places]),
        (-(-width // every), lambda net, x: x[:, ::every]),
        (width, lambda net, x: torch.cat([x[:, start::every] for start in range(every)], 1)),
        (width // 2 * 2, lambda net, x: torch.stack([x[:, 1 : width // 2 * 2 : 2], -x[:, :-1:2]], 2).flatten(1, 2))
        if width % 2 == 0
        else (width, lambda net, x: x.movedim(1, -1).mT.transpose(2, 3).moveaxis(3, 1)),
    ]
    out, form = b.draw.choice(forms)
    return out, on(place, form)


@step(2)
def parted(b: Builder, place: int, width: int) -> Made:
    count = b.divisor(width)
    uneven = b.draw.randrange(2, 4)
    forms: Sequence[tuple[int, Any]] = [
        (width, lambda net, x: torch.cat(x.tensor_split(uneven, 1)[::-1], 1)),
        (width, lambda net, x: torch.cat(torch.tensor_split(x, (2, 4), 1)[::-1], 1)),
        (width, lambda net, x: x.unflatten(1, (count, width // count)).transpose(1, 2).flatten(1, 2)),
        (width // count, lambda net, x: x.unflatten(1, (count, -1)).max(1)[0]),
        (width, lambda net, x: x + x.select(2, 0)[:, :, None] * torch.select(x, 3, -1)[..., None]),
        (width, lambda net, x: x.unflatten(1, (-1, width // count)).softmax(2).reshape(x.shape)),
    ]
    if width % 2 == 0:
        forms = [*forms, (width // 2, lambda net, x: F.glu(x, 1))]
    out, form = b.draw.choice(forms)
    return out, on(place, form)


@step()
def windowed(b: Builder, place: int, width: int) -> Made:
    forms: Sequence[tuple[int, Any]] = [
        (
            4 * width,
            lambda net, x: wider(F.unfold(x, 2, stride=2).view(len(x), -1, x.shape[2] // 2, x.shape[3] // 2)),
        ),
        (width, lambda net, x: F.fold(F.unfold(x, 2, stride=2), x.shape[2:], 2, stride=2)),
        (width, lambda net, x: wider(x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)))),
        (
            width,
            lambda net, x: F.grid_sample(x, x.new_full((*x.shape[::2], x.shape[3], 2), 0.3), align_corners=False),
        ),
    ]
    out, form = b.draw.choice(forms)
    return out, on(place, form)


def wider(x: Tensor) -> Tensor:
    """Return a map with each pixel four times."""
    return F.interpolate(x, scale_factor=2.0)


@step()
def copied(b: Builder, place: int, width: int) -> Made:
    forms: Sequence[tuple[int, Any]] = [
        (2 * width, lambda net, x: x.repeat_interleave(2, dim=1)),
        (2 * width, lambda net, x: x.tile(1, 2, 1, 1)),
        (width, lambda net, x: x + x[:, :1].repeat(1, width, 1, 1)),
        (width, lambda net, x: x * x.mean((1, 2, 3), keepdim=True).repeat(1, x.shape[1], 1, 1)),
        (width, lambda net, x: x + x.mean(1, keepdim=True).repeat_interleave(x.size(1), 1)),
        (width, lambda net, x: x * x.amax((2, 3), keepdim=True).tile(x.shape[2], x.shape[3])),
    ]
    out, form = b.draw.choice(forms)
    return out, on(place, form)


@step()
def repeated(b: Builder, place: int, width: int) -> Made:
    return 2 * width, on(place, lambda net, x: x.repeat(1, 2, 1, 1))


@step()
def flattened(b: Builder, place: int, width: int) -> Made:
    forms = [
        lambda net, x: x.view(x.size(0), -1).relu().view(x.shape),
        lambda net, x: x.reshape(x.shape[0], x.numel() // x.shape[0]).sigmoid().reshape(-1, width, *x.shape[2:]),
        lambda net, x: x.reshape(x.shape[0], math.prod(x.shape[1:])).view(x.shape[0], width, x.shape[2], -1),
        lambda net, x: (
            x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).view(*x.shape[:1], SIZE, -1, width).movedim(3, 1)
        ),
        lambda net, x: x.permute(1, 0, 2, 3).flatten(1).tanh().view(width, -1, *x.shape[2:]).transpose(0, 1),
    ]
    return width, on(place, b.draw.choice(forms))


# integers, parameters and mixing


@step()
def numbers(b: Builder, place: int, width: int) -> Made:
    forms = [
        lambda net, x: x / math.sqrt(width) + x.shape[1] ** -0.5,
        lambda net, x: x * x.size(1) / x.shape[0],
        lambda net, x: x.relu() * (x.shape[1] * x.shape[2]) + x.dim(),
    ]
    return width, on(place, b.draw.choice(forms))


@step()
def parameters(b: Builder, place: int, width: int) -> Made:
    column, twice, full = b.parameter(width), b.parameter(2, width), b.parameter(1, width, SIZE, 1)
    cut = b.draw.randrange(width)
    forms: Sequence[Any] = [
        lambda net, x: x * net.free[column].view(1, -1, 1, 1),
        lambda net, x: x * net.free[twice][0][:, None, None] + net.free[twice][1].exp().view(-1, 1, 1),
        lambda net, x: x + net.free[full],
        lambda net, x: torch.clamp(x, max=net.free[column][:, None, None]),
        lambda net, x: x * torch.cat([net.free[column][cut:], net.free[column][:cut]]).view(width, 1, 1),
    ]
    return width, on(place, b.draw.choice(forms))


@step()
def mixing(b: Builder, place: int, width: int) -> Made:
    forms: Sequence[Any] = [
        lambda net, x: x.cumsum(2).softmax(3),
        lambda net, x: x / (1 + x.std((2, 3), keepdim=True)),
        lambda net, x: F.avg_pool2d(x, 3, 1, 1) + F.max_pool2d(x, 3, 1, 1),
        lambda net, x: x * x.mean(1, keepdim=True),
        lambda net, x: torch.roll(x, (1, 2), (2, 3)),
        lambda net, x: x * F.avg_pool1d(x.mean((2, 3))[:, None], 3, 1, 1).transpose(1, 2)[..., None],
    ]
    return width, on(place, b.draw.choice(forms))
