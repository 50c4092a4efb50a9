"""Networks that there is no checkpoint of, trained from random weights: what other benchmarks begin with.

    python -m benchmarks.accuracy.from_scratch resnet18 --data imagefolder:DIR --in-memory --runs DIR

writes DIR/NETWORK-seedSEED.pt, its weights, and goes on after a kill. 5,000 training images are held out, the same
that the others hold out to choose on.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks import networks
from benchmarks.accuracy.paired import without_choosing
from benchmarks.accuracy.training_arguments import add_training_arguments, settings_from
from fxprune.files import make_folder, save_with_torch
from fxprune.training.data import load_data
from fxprune.training.recipe import Session, train


def main() -> None:
    """Train one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="one of benchmarks/networks.py")
    parser.add_argument("--choosing", type=int, default=5000, help="training images held out")
    add_training_arguments(parser, epochs=8, lr=0.05)
    arguments = parser.parse_args()
    settings = settings_from(arguments)
    make_folder(arguments.runs)
    name = f"{arguments.network}-seed{settings.seed}"
    weights = arguments.runs / f"{name}.pt"
    if weights.exists():
        raise SystemExit(f"{weights} is there already")
    data = load_data(arguments.data, networks.image_size(arguments.network), in_memory=arguments.in_memory)
    data, _ = without_choosing(data, arguments.choosing, settings.seed)
    torch.manual_seed(settings.seed)
    network = getattr(networks, arguments.network)()
    session = Session(arguments.runs / f"{name}.checkpoint", arguments.runs / f"{name}.jsonl")
    train(network, data, settings, print, session=session)
    network.cpu().to(memory_format=torch.contiguous_format)
    save_with_torch(weights, network.state_dict())


if __name__ == "__main__":
    main()
