"""Tables and plots of the recorded results, in README.md and results/*.png.

    python benchmarks/tables.py

Reads what cifar10.py, removal.py, shrinking.py, plain.py and latency.py wrote; runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from readme import replace_part
from tabulate import tabulate

HERE = Path(__file__).parent
RESULTS = HERE / "results"
START, END = "<!-- training and latency: written by tables.py -->", "<!-- end of training and latency -->"
OURS, UNPRUNED = "fxprune", "unpruned"


def main() -> None:
    """Draw every plot and replace the tables in README.md."""
    mpl.use("Agg")
    sections: list[str] = []
    for pattern, section in (
        ("cifar10_*.json", accuracy),
        ("removal_*.json", removal),
        ("shrinking_*.json", shrinking),
        ("plain_*.json", plain),
        ("latency_*.json", latency),
    ):
        for path in sorted(RESULTS.glob(pattern)):
            sections.append(section(path.stem, json.loads(path.read_text())))
    replace_part(HERE / "README.md", START, END, "\n\n".join(sections))


def accuracy(name: str, record: dict[str, Any]) -> str:
    """Return the section of a pruned network against its fine-tuned baseline; draw its way there."""
    network = name.removeprefix("cifar10_")
    base = record["baseline"]
    has_weights = record["settings"].get("weights", True)  # of a checkpoint that all start from
    rows: list[list[Any]] = [
        [
            "the checkpoint as it is" if has_weights else "the first weights",
            _percent(record["checkpoint_top1"]),
            *[""] * 7,
        ],
        [
            "fine-tuned (baseline)" if has_weights else "unpruned (baseline)",
            _percent(base["top1"]),
            "",
            f"{base['macs']:,}",
            f"{base['params']:,}",
            1,
            1,
            "",
            "",
        ],
    ]
    for target, one in record["pruned"].items():
        ratios = [f"{record['latency'][batch]['ratio'][target]:.2f}" for batch in ("1", "64")]
        rows.append(
            [
                f"{1 - one['macs'] / base['macs']:.1%} of the MACs removed",
                _percent(one["top1"]),
                f"{100 * one['against_baseline']:+.2f}",
                f"{one['macs']:,}",
                f"{one['params']:,}",
                *ratios,
                f"{one['distill']:g}, {one.get('distill_features', 0):g}, {one['teachers']}",
                f"{one['shrink_share']:.0%}",
            ]
        )
    headers = ["", "top-1", "against the baseline", "MACs", "parameters", "time, batch 1", "batch 64"]
    headers += ["distillation: outputs, maps, teachers", "shrunk in"]

    def draw(axes: Axes) -> None:
        paths = {"baseline": base["path"], **{f"{t} of the MACs": o["path"] for t, o in record["pruned"].items()}}
        for label, path in paths.items():
            axes.plot([p["epoch"] for p in path], [100 * p["top1"] for p in path], label=label)
        axes.set(xlabel="epoch", ylabel="held-out top-1, %", title=f"{network}: training, scales closing meanwhile")
        axes.legend()

    settings = record.get("settings", {})
    changes = [one["accuracy_after_removal"] - one["accuracy_before_removal"] for one in record["pruned"].values()]
    shared = f" The baseline is that of {base['of']}, in {base['precision']}." if "of" in base else ""
    trained = [*record["pruned"].values(), *([] if "of" in base else [base])]
    devices = sorted(set().union(*map(_devices, trained)))
    arms = "What was pruned" if "of" in base else "All of it"
    on = f" {arms} was trained on {' and '.join(devices)}; times are of the machine named below."
    where = "" if devices == ["cpu"] else on
    text = (
        f"{settings['epochs']} epochs for every network, seed {settings['seed']}, {settings['precision']}; times "
        f"over the baseline's.{where}{shared} The removal itself changed top-1 by at most "
        f"{100 * max(map(abs, changes)):.2f} points."
    )
    against = "fine-tuned" if has_weights else "unpruned, from scratch"
    return _section(f"{network}, pruned against {against}", record, name, text, rows, headers, draw)


def removal(name: str, record: dict[str, Any]) -> str:
    """Return the section of top-1 right before and after removal."""
    rows = [
        [
            f"{1 - row['macs_left']:.1%}",
            row["layers_removed"],
            _percent(row["top1_before"]),
            _percent(row["top1_after"]),
            f"{100 * row['change']:+.2f}",
            f"{row['max_relative_difference']:.0e}",
        ]
        for row in record["rows"]
    ]
    headers = ["MACs removed", "layers", "top-1 before", "right after", "change", "largest difference, float64"]

    def draw(axes: Axes) -> None:
        left = [100 * (1 - row["macs_left"]) for row in record["rows"]]
        axes.plot(left, [100 * row["top1_before"] for row in record["rows"]], "o-", label="scales at zero")
        axes.plot(left, [100 * row["top1_after"] for row in record["rows"]], "x", label="layers removed")
        axes.set(xlabel="MACs removed, %", ylabel="held-out top-1, %", title="no training between the two")
        axes.legend()

    epochs = record["settings"]["epochs"]
    text = (
        f"One training of {epochs} epochs in which the scales go to zero one after the other; at each share the "
        "zeros are removed from a copy, with no training after it. "
        f"The checkpoint: {_percent(record['checkpoint_top1'])}."
    )
    network = name.removeprefix("removal_")
    return _section(f"{network}, right after removal", record, name, text, rows, headers, draw)


def shrinking(name: str, record: dict[str, Any]) -> str:
    """Return the section of ways to shrink the scales."""
    rows = []
    for arm, one in record["arms"].items():
        zeros = sum(scale == 0 for scale in one["scales"])
        scales = f"{zeros} of {len(one['scales'])}"
        accuracies = [_percent(one[key]) for key in ("top1_before", "top1_after")]
        rows.append([arm, scales, *accuracies, _percent(one["path"][-1]["top1"]), f"{one['macs_left']:.1%}"])
    headers = ["", "scales at zero", "top-1 before the cut", "right after", "at the end", "MACs left"]

    def draw(axes: Axes) -> None:
        for arm, one in record["arms"].items():
            axes.plot([p["epoch"] for p in one["path"]], [100 * p["top1"] for p in one["path"]], label=arm)
        axes.set(xlabel="epoch", ylabel="held-out top-1, %", title="ways to shrink")
        axes.legend()

    settings = record["settings"]
    text = (
        f"The same checkpoint, {settings['epochs']} epochs each; {settings['target']:g} of the MACs left after "
        f"{settings['shrink_share']:.0%} of the steps; what is not zero then is cut, smallest first. "
        f"Seed {settings['seed']}, {settings['precision']}."
    )
    network = name.removeprefix("shrinking_")
    return _section(f"{network}, ways to shrink the scales", record, name, text, rows, headers, draw)


def plain(name: str, record: dict[str, Any]) -> str:
    """Return the section of a plain network with and without ResConv."""
    arms = {"plain": record["plain"], "with ResConv": record["resconv"]}
    rows = [[arm, _percent(one["top1"]), f"{one['path'][-1]['loss']:.3f}"] for arm, one in arms.items()]
    fused = record["resconv"]
    rows.append(["with ResConv, fused", _percent(fused["top1_fused"]), ""])
    text = (
        f"From scratch, {record['settings']['epochs']} epochs, the same schedule and first weights. Fused, it has "
        f"the plain network's {fused['macs'][1]:,} MACs and {fused['params'][1]:,} parameters; largest difference "
        f"{fused['max_relative_difference']:.0e} (float64)."
    )

    def draw(axes: Axes) -> None:
        for arm, one in arms.items():
            axes.plot([p["epoch"] for p in one["path"]], [100 * p["top1"] for p in one["path"]], label=arm)
        axes.set(xlabel="epoch", ylabel="held-out top-1, %", title=name.removeprefix("plain_"))
        axes.legend()

    network = name.removeprefix("plain_")
    return _section(f"{network}, from scratch", record, name, text, rows, ["", "top-1", "last loss"], draw)


def latency(name: str, record: dict[str, Any]) -> str:
    """Return the section of latency and memory at equal MACs."""
    rows = []
    for target, one in record["targets"].items():
        for row in one["rows"]:
            ours = row["ms"][OURS]
            others = [f"{ms / ours:.2f}" for network, ms in row["ms"].items() if network != OURS]
            memory = [
                " / ".join(f"{mb[train]:.1f}" for network, mb in row["peak_mb"].items() if network != UNPRUNED)
                for train in (0, 1)
            ]
            rows.append([target, row["layout"], row["mode"], row["batch"], *others, *memory])
    networks = list(next(iter(record["targets"].values()))["costs"])
    compared = [network for network in networks if network != UNPRUNED]
    order = ", then ".join(compared)
    headers = ["MACs left", "layout", "mode", "batch", *(n for n in networks if n != OURS), "peak MiB", "in training"]
    costs = "; ".join(
        f"at {target}: "
        + ", ".join(f"{n} {one['costs'][n]['macs'] / one['costs'][UNPRUNED]['macs']:.1%}" for n in compared)
        for target, one in record["targets"].items()
    )
    text = (
        f"Times over that of fxprune's network, medians in turns. MACs left {costs}. "
        f"Memory of a forward pass: {order}; in training it keeps what the backward pass needs."
    )

    def draw(axes: Axes) -> None:
        for number, (label, ratio) in enumerate(_slowest(record)):
            axes.barh(number, ratio, color="tab:blue")
            axes.text(ratio, number, f" {ratio:.2f}", va="center")
            axes.text(0.02, number, label, va="center", color="white", fontsize=8)
        axes.axvline(1, color="black")
        axes.set(xlabel="Torch-Pruning's time over fxprune's", yticks=[], title="equal MACs")

    network = name.removeprefix("latency_")
    return _section(f"{network}, latency and memory at equal MACs", record, name, text, rows, headers, draw)


def _slowest(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the least ratio of each target, layout and mode, with the batch size that has it."""
    for target, one in record["targets"].items():
        ratios: dict[tuple[str, str], dict[int, float]] = {}
        for row in one["rows"]:
            found = ratios.setdefault((row["layout"], row["mode"]), {})
            found[row["batch"]] = row["ms"]["torch-pruning"] / row["ms"][OURS]
        for (layout, mode), of_batch in ratios.items():
            batch = min(of_batch, key=lambda size: of_batch[size])
            yield f"{target}, {layout}, {mode}: least at batch {batch}", of_batch[batch]


def _section(
    title: str,
    record: dict[str, Any],
    name: str,
    text: str,
    rows: list[list[Any]],
    headers: list[str],
    draw: Callable[[Axes], None],
) -> str:
    figure, axes = pyplot.subplots(figsize=(6, max(3.2, 0.16 * len(rows))), layout="constrained")
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / f"{name}.png", dpi=80)
    pyplot.close(figure)
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    cores, threads = record["hardware"]["cores"], record["hardware"].get("threads")
    cpu = f"{threads} of {cores} cores" if threads and threads < cores else f"{cores} cores"
    machine = record["hardware"].get("gpu") or cpu
    told = "".join(f"{name}={value} " for name, value in record.get("environment", {}).items())
    source = f"`{told}{record['command']}` ({versions}; {machine})"
    table = tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
    picture, data = f"![{title}](results/{name}.png)", f"[{name}.json](results/{name}.json)"
    return f"### {title}\n\n{text}\n\n{table}\n\n{picture}\n\n{source}; {data}"


def _devices(arm: Mapping[str, Any]) -> set[str]:
    """Return where the epochs of an arm were trained; older records name only where it was finished."""
    named = {epoch["device"] for epoch in arm["path"] if "device" in epoch}
    return named or {arm.get("hardware", {}).get("gpu") or "cpu"}


def _percent(share: float) -> str:
    return f"{share:.2%}"


if __name__ == "__main__":
    main()
