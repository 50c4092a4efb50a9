"""Small networks with the structures that people bring to channel pruning, each with its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops.misc import FrozenBatchNorm2d

NETS: dict[str, Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]] = {}
WIDTH = 8


def net(*shapes: tuple[int, ...]) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Have a class be one of the networks, called on inputs of these shapes."""

    def register(kind: type[nn.Module]) -> type[nn.Module]:
        NETS[kind.__name__] = lambda: (kind(), tuple(torch.randn(shape) for shape in shapes or ((2, 3, 8, 8),)))
        return kind

    return register


def conv(ins: int, outs: int, size: int = 3, **options: Any) -> nn.Conv2d:
    """Return a conv that keeps the resolution."""
    return nn.Conv2d(ins, outs, size, padding=size // 2, **options)


def masks(width: int, share: str) -> torch.Tensor:
    """Return scales, some of which are zero."""
    scale = torch.rand(width) + 0.1
    places = torch.arange(width)
    gone = {
        "half": torch.rand(width) < 0.5,
        "one": places == int(torch.randint(width, ())),
        "all but one": places != int(torch.randint(width, ())),
        "ends": (places == 0) | (places == width - 1),
    }[share]
    return scale.masked_fill(gone, 0)


class Net(nn.Module):
    """A stem of some channels, what a subclass does with them, and a head."""

    def __init__(self, width: int = WIDTH, out: int | None = None) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, width), nn.BatchNorm2d(width), nn.ReLU())
        self.head = conv(out or width, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.body(self.stem(x)))
        return y

    def body(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


@net()
class SqueezeExcite(Net):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def body(self, x: Any) -> Any:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


@net()
class SqueezeExciteLinear(Net):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(8, 4), nn.Linear(4, 8)

    def body(self, x: Any) -> Any:
        b, c, _, _ = x.shape
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        return x * torch.sigmoid(self.up(F.relu(self.down(y)))).view(b, c, 1, 1).expand_as(x)


@net()
class EfficientChannelAttention(Net):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.after = conv(8, 8)

    def body(self, x: Any) -> Any:
        y = x.mean((2, 3)).unsqueeze(1)
        return self.after(x * torch.sigmoid(self.mix(y)).transpose(1, 2).unsqueeze(-1))


@net()
class SelectiveKernel(Net):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(8, 8), conv(8, 8, 5)
        self.squeeze, self.choose = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 16, 1)

    def body(self, x: Any) -> Any:
        both = torch.stack([self.one(x), self.two(x)], dim=1)
        weights = self.choose(F.relu(self.squeeze(both.sum(1).mean((2, 3), keepdim=True))))
        b = x.size(0)
        weights = weights.view(b, 2, 8, 1, 1).softmax(dim=1)
        return (both * weights).sum(1)


@net()
class Cbam(Net):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1))
        self.space = conv(2, 1, 7)

    def body(self, x: Any) -> Any:
        x = x * torch.sigmoid(self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1)))
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.space(maps))


@net()
class SpatialMask(Net):
    def __init__(self) -> None:
        super().__init__()
        self.mask = conv(8, 1)

    def body(self, x: Any) -> Any:
        return x * torch.sigmoid(self.mask(x))


@net()
class GroupNorms(Net):
    def __init__(self) -> None:
        super().__init__(16)
        self.layers = nn.Sequential(conv(16, 16), nn.GroupNorm(4, 16), nn.SiLU(), conv(16, 16), nn.GroupNorm(1, 16))

    def body(self, x: Any) -> Any:
        return self.layers(x)


@net()
class InstanceNorms(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(8, 12), nn.InstanceNorm2d(12, affine=True), nn.LeakyReLU(0.1), conv(12, 8), nn.InstanceNorm2d(8)
        )

    def body(self, x: Any) -> Any:
        return self.layers(x)


@net()
class ConvNextBlock(Net):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = conv(8, 8, 5, groups=8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 24), nn.Linear(24, 8)
        self.scale = nn.Parameter(torch.randn(8, 1, 1))

    def body(self, x: Any) -> Any:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2) * self.scale


@net()
class Depthwise(Net):
    def __init__(self) -> None:
        super().__init__(out=16)
        self.layers = nn.Sequential(conv(8, 8, groups=8), nn.BatchNorm2d(8), nn.ReLU6(), conv(8, 16, groups=8))

    def body(self, x: Any) -> Any:
        return self.layers(x)


@net()
class Grouped(Net):
    def __init__(self) -> None:
        super().__init__(16)
        self.layers = nn.Sequential(conv(16, 24, groups=4), nn.ReLU(), conv(24, 16, groups=2))

    def body(self, x: Any) -> Any:
        return self.layers(x)


@net()
class PairsGrouped(Net):
    """Groups of two channels: none could go of each, so whole ones do."""

    def __init__(self) -> None:
        super().__init__(16)
        self.layers = nn.Sequential(conv(16, 16, groups=8), nn.ReLU(), conv(16, 16, groups=8))

    def body(self, x: Any) -> Any:
        return self.layers(x)


@net()
class Shuffle(Net):
    def __init__(self) -> None:
        super().__init__(16)
        self.one, self.two = conv(16, 16, groups=2), conv(16, 16, groups=4)

    def body(self, x: Any) -> Any:
        b, c, h, w = x.size()
        x = self.one(x).view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        return self.two(F.channel_shuffle(x, 4))


@net()
class SplitShuffle(Net):
    def __init__(self) -> None:
        super().__init__(16)
        self.branch = nn.Sequential(conv(8, 8), nn.ReLU())

    def body(self, x: Any) -> Any:
        b, c, h, w = x.shape
        first, second = x.chunk(2, 1)
        x = torch.cat((first, self.branch(second)), 1)
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


@net()
class CrossStagePartial(Net):
    def __init__(self) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(8, 16, 1), conv(32, 8, 1)
        self.m = nn.ModuleList(nn.Sequential(conv(8, 8), nn.SiLU()) for _ in range(2))

    def body(self, x: Any) -> Any:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


@net()
class Dense(Net):
    def __init__(self) -> None:
        super().__init__(out=8 + 3 * 4)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * i) for i in range(3))
        self.convs = nn.ModuleList(conv(8 + 4 * i, 4) for i in range(3))

    def body(self, x: Any) -> Any:
        features = [x]
        for norm, layer in zip(self.norms, self.convs, strict=True):
            features.append(layer(F.relu(norm(torch.cat(features, 1)))))
        return torch.cat(features, 1)


@net()
class UNet(Net):
    def __init__(self) -> None:
        super().__init__(out=16)
        self.down, self.bottom = conv(8, 12), conv(12, 12)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2)

    def body(self, x: Any) -> Any:
        y = F.max_pool2d(F.relu(self.down(x)), 2)
        return torch.cat([x, self.up(F.relu(self.bottom(y)))], dim=1)


@net()
class TransposedGroups(Net):
    def __init__(self) -> None:
        super().__init__(12, out=12)
        self.up = nn.ConvTranspose2d(12, 12, 2, stride=2, groups=3)
        self.depthwise = nn.ConvTranspose2d(12, 12, 3, padding=1, groups=12)

    def body(self, x: Any) -> Any:
        return self.depthwise(self.up(x))


@net()
class PixelShuffle(Net):
    def __init__(self) -> None:
        super().__init__(out=6)
        self.expand = conv(8, 24)

    def body(self, x: Any) -> Any:
        return F.pixel_shuffle(self.expand(x), 2)


@net()
class PixelUnshuffle(Net):
    def __init__(self) -> None:
        super().__init__(out=32)

    def body(self, x: Any) -> Any:
        return F.pixel_unshuffle(x, 2)


@net()
class ParametricRelu(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv(8, 12), nn.PReLU(12), conv(12, 8), nn.PReLU())

    def body(self, x: Any) -> Any:
        return self.layers(x)


@net()
class FlattenToLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2 = conv(3, 8), nn.Linear(8 * 16, 12), nn.Linear(12, 5)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


@net()
class ViewToLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv(3, 8), nn.Linear(8 * 64, 5)

    def forward(self, x: Any) -> Any:
        return self.fc(self.conv(x).view(-1, 8 * 64))


@net((2, 6, 16))
class Attention(nn.Module):
    """Heads of one linear for q, k and v, as in timm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.proj = nn.Linear(16, 16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.heads, self.scale = 4, 4**-0.5
        self.bias = nn.Parameter(torch.randn(4, 6, 6))
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, x: Any) -> Any:
        b, n, c = x.shape
        x = self.embed(x)
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attention = ((q * self.scale) @ k.transpose(-2, -1) + self.bias).softmax(dim=-1)
        x = x + self.proj((attention @ v).transpose(1, 2).reshape(b, n, c))
        return self.fc2(F.gelu(self.fc1(x)))


@net((2, 6, 16))
class FusedAttention(nn.Module):
    """Three linear layers, and torch's own product with its default scale."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Any) -> Any:
        b, n, _ = x.shape
        q, k, v = (one(x).view(b, n, 4, -1).transpose(1, 2) for one in (self.q, self.k, self.v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))


@net()
class NonLocal(Net):
    def __init__(self) -> None:
        super().__init__()
        self.theta, self.phi, self.g, self.out = conv(8, 6, 1), conv(8, 6, 1), conv(8, 4, 1), conv(4, 8, 1)

    def body(self, x: Any) -> Any:
        b, _, h, w = x.shape
        theta, phi, g = (one(x).flatten(2) for one in (self.theta, self.phi, self.g))
        attention = torch.einsum("bcn,bcm->bnm", theta, phi).softmax(-1)
        return x + self.out(torch.bmm(g, attention.transpose(1, 2)).view(b, -1, h, w))


@net((2, 6, 12))
class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens1, self.tokens2 = nn.Linear(6, 10), nn.Linear(10, 6)
        self.channels1, self.channels2 = nn.Linear(12, 20), nn.Linear(20, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Any) -> Any:
        x = x + self.tokens2(F.gelu(self.tokens1(x.transpose(1, 2)))).transpose(1, 2)
        x = x + self.channels2(F.gelu(self.channels1(x)))
        return self.head(x.mean(1))


@net((2, 3, 16))
class OneDimension(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(3, 8, 3),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(8, 6, 3),
            nn.AdaptiveAvgPool1d(1),
        )
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Any) -> Any:
        return self.fc(self.layers(x).squeeze(-1))


@net((2, 3, 4, 6, 6))
class ThreeDimensions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 6, 1), nn.AdaptiveAvgPool3d(1)
        )
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Any) -> Any:
        return self.fc(self.layers(x).flatten(1))


@net()
class Shared(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layer = conv(8, 8)

    def body(self, x: Any) -> Any:
        return self.layer(F.relu(self.layer(x)))


@net()
class Tied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(8, 8), conv(8, 8)
        self.two.weight = self.one.weight

    def body(self, x: Any) -> Any:
        return self.two(F.relu(self.one(x)))


@net((2, 7))
class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, 10))
        self.hidden = nn.Linear(10, 10)

    def forward(self, x: Any) -> Any:
        return F.linear(self.hidden(F.relu(x @ self.weight)), self.weight)


@net()
class PaddedShortcut(Net):
    def __init__(self) -> None:
        super().__init__(out=16)
        self.one, self.two = nn.Conv2d(8, 16, 3, 2, 1), conv(16, 16)

    def body(self, x: Any) -> Any:
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return F.relu(shortcut + self.two(F.relu(self.one(x))))


@net()
class ZerosShortcut(Net):
    def __init__(self) -> None:
        super().__init__(out=16)
        self.one = conv(8, 16)

    def body(self, x: Any) -> Any:
        b, _, h, w = x.shape
        more = torch.zeros(b, 8, h, w, dtype=x.dtype)
        return torch.cat((x, more), 1) + self.one(x)


@net((2, 3, 8, 8), (2, 4, 8, 8))
class TwoInputsDictOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 8), conv(4, 8), conv(16, 6), conv(6, 5)

    def forward(self, x: Any, y: Any) -> Any:
        z = self.c(torch.cat([self.a(x), self.b(y)], 1))
        return {"features": z, "out": self.d(F.relu(z)), "list": [self.a(x).mean((1, 2, 3))]}


@net()
class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(8))
        self.w2, self.w3 = nn.Parameter(torch.randn(8, 1, 3, 3)), nn.Parameter(torch.randn(5, 8, 1, 1))
        self.mean: torch.Tensor
        self.var: torch.Tensor
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("var", torch.rand(8) + 0.5)

    def forward(self, x: Any) -> Any:
        x = F.conv2d(x, self.w1, self.b1, padding=1)
        x = F.relu(F.batch_norm(x, self.mean, self.var))
        return F.conv2d(F.conv2d(x, self.w2, None, 1, 1, 1, 8), self.w3)


@net()
class SizesAsNumbers(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layer = conv(8, 8)

    def body(self, x: Any) -> Any:
        y = self.layer(x)
        return y / math.sqrt(y.shape[1]) + x.sum((2, 3), keepdim=True) * (x.size(1) ** -0.5)


@net()
class Slices(Net):
    def __init__(self) -> None:
        super().__init__(16, out=14)
        self.layer = conv(6, 6)

    def body(self, x: Any) -> Any:
        x = torch.cat([self.layer(x[:, :6]), x[:, 6:-2].flip(1)], 1)
        return x


@net()
class SplitSizes(Net):
    def __init__(self) -> None:
        super().__init__(16)
        self.one, self.two = conv(5, 5), conv(11, 11)

    def body(self, x: Any) -> Any:
        a, b = torch.split(x, [5, 11], dim=1)
        return torch.cat([self.two(b), self.one(a)], 1)


@net()
class BilinearPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv(3, 6), nn.Linear(36, 5)

    def forward(self, x: Any) -> Any:
        x = self.conv(x).flatten(2)
        return self.fc((x @ x.transpose(1, 2)).flatten(1))


@net()
class SelectedChannel(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layer = conv(8, 8)

    def body(self, x: Any) -> Any:
        return self.layer(x) * x[:, 3:4] + x[:, 2].unsqueeze(1)


@net()
class UnreadChannels(Net):
    def __init__(self) -> None:
        super().__init__(16, out=8)

    def body(self, x: Any) -> Any:
        return x[:, :8]


@net()
class FrozenNorms(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv(8, 12, bias=False), FrozenBatchNorm2d(12), nn.ReLU(), conv(12, 8))

    def body(self, x: Any) -> Any:
        return self.layers(x)


@net()
class SharedNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = conv(8, 8), conv(8, 8), nn.BatchNorm2d(8)

    def body(self, x: Any) -> Any:
        return self.norm(self.one(x)) + self.norm(self.two(x))


@net()
class NestedOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([conv(3, 8), conv(8, 8), conv(8, 6)])

    def forward(self, x: Any) -> Any:
        found = []
        for layer in self.layers:
            x = F.relu(layer(x))
            found.append(x.mean((1, 2, 3)))
        return found, {"last": (x, None)}


@net((2, 6, 16))
class Gram(nn.Module):
    """One value on both sides of a product."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(16, 12), nn.Linear(6, 5)

    def forward(self, x: Any) -> Any:
        y = self.embed(x)
        return self.head(torch.einsum("bnc,bmc->bnm", y, y) + torch.matmul(y, other=y.transpose(1, 2)))


@net((2, 9, 16))
class RelativeBias(nn.Module):
    """Attention whose bias is looked up in a table, by a buffer of indices."""

    index: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.table = nn.Parameter(torch.randn(25, 4))
        self.register_buffer("index", torch.randint(25, (9, 9)))

    def forward(self, x: Any) -> Any:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.unsqueeze(0))
        return self.proj(y.transpose(1, 2).flatten(2))


@net()
class ByMode(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layer = conv(8, 12)
        self.last = conv(12, 8)

    def body(self, x: Any) -> Any:
        y = self.layer(x)
        return self.last(F.relu(y) if self.training else torch.sigmoid(y))


@net()
class MadeOfOthers(Net):
    """A mask a sample, and a shortcut padded by zeros, both made of the dtype and device of another tensor."""

    def __init__(self) -> None:
        super().__init__(out=12)
        self.layer, self.wide = conv(8, 8), conv(8, 12)

    def body(self, x: Any) -> Any:
        mask = x.new_ones((x.shape[0], 1, 1, 1)) * 0.5
        y = x + self.layer(x) * mask
        b, _, h, w = y.shape
        return torch.cat([y, y.new_zeros(b, 4, h, w)], 1) + self.wide(y)


@net()
class OverlappingParts(Net):
    def __init__(self) -> None:
        super().__init__(out=7)

    def body(self, x: Any) -> Any:
        return torch.cat([x.narrow(1, 2, 4), torch.narrow(x, 1, 0, 3)], 1)
