"""Networks that the benchmarks measure, as factories for ``fxprune prune benchmarks/networks.py:NAME``."""

from functools import partial

from fxprune.training.cifar_resnet import CifarResNet

resnet20 = partial(CifarResNet, depth=20)
resnet56 = partial(CifarResNet, depth=56)
