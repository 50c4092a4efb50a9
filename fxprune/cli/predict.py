"""``fxprune predict``: what a pruned network says of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from tabulate import tabulate

from fxprune.cli.options import json_option, print_json
from fxprune.diffing.printable import printable
from fxprune.training.settings import Settings


def _numbers(_: click.Context, __: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(map(float, text.split(",")))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list of numbers; write for example 0.5,0.5,0.5") from error


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top-k", default=5, type=click.IntRange(min=1), help="How many classes to tell of each image.")
@click.option("--device", default=Settings.device, help="cpu, cuda, cuda:1, ...; auto takes a CUDA GPU if it can.")
@click.option("--image-size", type=click.IntRange(1, 1 << 14), help="Side in pixels, in place of config.json's.")
@click.option("--mean", callback=_numbers, metavar="R,G,B", help="Of each channel from 0 to 1, likewise.")
@click.option("--std", callback=_numbers, metavar="R,G,B", help="Of each channel, likewise.")
@json_option("folder, images, each with its best classes")
def predict(
    folder: Path,
    images: Sequence[Path],
    top_k: int,
    device: str,
    as_json: bool,
    **told: object,
) -> None:
    """Classify IMAGES, files or folders of them, with the network in FOLDER, which prune, demo or run wrote.

    Images are prepared as for validation, which config.json in FOLDER tells. No code in FOLDER is run.
    """
    from fxprune.training.predicting import images_in, load_predictor, require_emitted
    from fxprune.training.preprocessing import told_preprocessing

    require_emitted(folder)
    files = images_in(images)
    predictor = load_predictor(folder, told_preprocessing(folder, **told), device)  # type: ignore[arg-type]
    found = list(predictor(files, top_k))
    if as_json:
        print_json({"folder": str(folder), "images": [one.to_json() for one in found]})
        return
    rows = [
        ["" if rank else printable(str(one.image)), printable(guess.label), f"{guess.probability:.1%}"]
        for one in found
        for rank, guess in enumerate(one.top)
    ]
    click.echo(
        tabulate(
            rows,
            headers=["image", "class", "probability"],
            colalign=("left", "left", "right"),
            disable_numparse=True,
        )
    )
