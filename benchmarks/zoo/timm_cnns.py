"""Write timm_cnns.txt: the convolutional networks of timm, the smallest of each family.

    python -m benchmarks.zoo.timm_cnns

The rule. Models of the modules in ``NOT_CONVOLUTIONAL`` (transformers and MLPs, whose only conv embeds patches) and
timm's own test models are left out; hybrids stay. A family is a module of timm and a name without its sizes: words
lose what follows their first digit (``v2`` as a version stays), and words that are sizes go. Of each family it is the
model with the fewest parameters. Models with fewer than two convs are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict

import timm
import torch
from torch import nn

from benchmarks.zoo.models import TIMM_LIST

NOT_CONVOLUTIONAL = re.compile(
    "beit|cait|convit|crossvit|davit|deepseek_vit|deit|eva|focalnet|gcvit|gemma4_vit|hiera|hieradet_sam2|mlp_mixer|"
    "mvitv2|naflexvit|nest|pit|pvt_v2|qwen3_vit|sequencer|swin_transformer.*|tnt|twins|vision_transformer.*|vitamin|"
    "volo|xcit"
)
SIZES = re.compile(
    "[a-imklstx]|ti|xs|xxs|xl|xxl|atto|base|femto|giant|huge|kobe|large|medium|mini|nano|pico|plus|rw|short|small|"
    "tall|tiny|wide|xlarge|xxlarge|xtiny|xxtiny|xx|zepto"
)


def stem(name: str) -> tuple[str, ...]:
    """Return the words of ``name`` without what follows their first digit, and without sizes."""
    stems = (re.match(r"[a-z]+\d[a-z]{3,}|[a-z]+v\d(?!\d)|[a-z]*", word) for word in name.split("_"))
    words = [found.group() for found in stems if found is not None]
    return tuple(word for word in words if word and not SIZES.fullmatch(word))


def cost(name: str) -> tuple[int, int]:
    """Return the parameters and the convs of a model, without making its weights."""
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    convs = sum(isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for m in model.modules())
    return sum(p.numel() for p in model.parameters()), convs


def main() -> None:
    """Choose, and write the list."""
    families: dict[tuple[str, ...], list[tuple[int, str]]] = defaultdict(list)
    for module in timm.list_modules():
        for name in [] if NOT_CONVOLUTIONAL.fullmatch(module) else timm.list_models(module=module):
            params, convs = cost(name)
            if convs >= 2 and not name.startswith("test_"):
                families[(module, *stem(name))].append((params, name))
    names = sorted(min(members)[1] for members in families.values())
    header = f"# timm {timm.__version__}: the smallest CNN of each of {len(names)} families; made by timm_cnns.py\n"
    TIMM_LIST.write_text(header + "".join(f"{name}\n" for name in names))
    print(f"{len(names)} models")


if __name__ == "__main__":
    main()
