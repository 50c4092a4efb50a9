"""README.md and docs/: what they show is run, and the commands, options and names that they speak of exist.

Their links are followed in test_benchmarks.py, with those of all other pages.
"""

from __future__ import annotations

import importlib.util
import operator
import re
import shlex
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import click
import docs_models
import pytest
import torch

import fxprune
from fxprune.cli import main
from fxprune.cli.app import cli
from fxprune.errors import FxpruneWarning
from fxprune.pipelines.registry import parse_passes

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": ROOT / "README.md", **{f"docs/{one.name}": one for one in sorted((ROOT / "docs").glob("*.md"))}}
QUESTIONS = (
    *("prune my detector", "prune my U-Net", "prune my ViT", "keep the first conv", "exclude a layer"),
    *(
        "choose a target",
        "prune to a time in milliseconds",
        "prune without data",
        "train on",
        "quantise",
        "deploy",
        "resume",
        "several GPUs",
        "my loss",
    ),
    *("why a layer stayed", "compare two models", "write a pass", "What if it diverges", "Why is it not faster"),
    *("What hardware", "different from Torch-Pruning", "my own training loop", "Why was nothing removed"),
)
OPTIONS_OF_OTHERS = {"--nproc-per-node", "--help"}
FENCE = re.compile(r"(?:<!-- ([^>]*) -->\n)?```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """What is between two fences, in which language, and what the comment before it says."""

    mark: str
    language: str
    code: str


def blocks(page: str, *languages: str) -> list[Block]:
    found = [Block(mark, kind, code) for mark, kind, code in FENCE.findall(PAGES[page].read_text())]
    return [one for one in found if not languages or one.language in languages]


def prose(page: str) -> str:
    return re.sub(FENCE, "", PAGES[page].read_text())


def commands(code: str) -> Iterator[list[str]]:
    """Yield the words behind `fxprune`, of every command in some lines of the shell."""
    for line in code.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            at = next((i for i, word in enumerate(words) if Path(word).name == "fxprune"), None)
            if at is not None and (at == 0 or words[at - 1] == "-m"):
                yield words[at + 1 :]


PYTHON = [page for page in PAGES if blocks(page, "python")]
SHELL = [page for page in PAGES if blocks(page, "sh")]
RUN = [page for page in PAGES if page in PYTHON or any(one.mark == "run" for one in blocks(page, "sh"))]


@pytest.fixture(scope="session")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages have it: mypackage, images in flowers and photos, and a finished run in pruned."""
    from PIL import Image

    root = tmp_path_factory.mktemp("docs")
    torch.manual_seed(0)
    (root / "mypackage").mkdir()
    shutil.copy(docs_models.__file__, root / "mypackage" / "models.py")
    for folder in [f"flowers/{part}/{name}" for part in ("train", "val") for name in ("daisy", "rose")] + ["photos"]:
        (root / folder).mkdir(parents=True)
        for number in range(12):
            pixels = torch.randint(256, (40, 40, 3), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / folder / f"{number}.jpg")
    torch.save(docs_models.make_model().state_dict(), root / "best.pth")
    options = shlex.split("--image-size 32 --workers 0 --batch-size 8 --epochs 2 --norms keep --target-macs 0.5")
    model, data = f"{root / 'mypackage' / 'models.py'}:make_model", f"imagefolder:{root / 'flowers'}"
    with _forgetting(root):
        main(["prune", model, "--data", data, "--out", str(root / "pruned"), *options])
    return root


@pytest.fixture
def here(pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that folder of its own, which one is in."""
    shutil.copytree(pruned, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    with _forgetting(tmp_path):
        sys.path.insert(0, str(tmp_path))
        yield tmp_path


@contextmanager
def _forgetting(root: Path) -> Iterator[None]:
    """Forget afterwards what was imported from the folders of ``root``."""
    known, path = dict(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    local = {"models", *(one.name for one in root.iterdir())}
    for name in [one for one in sys.modules if one not in known and one.partition(".")[0] in local]:
        del sys.modules[name]


def preamble() -> dict[str, object]:
    """Return what docs/index.md says that the examples have."""
    torch.manual_seed(0)
    batches = [(torch.randn(8, 3, 32, 32), torch.randint(3, (8,))) for _ in range(8)]
    box = {"boxes": torch.tensor([[10.0, 10.0, 60.0, 60.0]]), "labels": torch.tensor([1])}
    return {
        "__name__": "of_the_docs",
        "model": docs_models.make_model(),
        "images": torch.randn(16, 3, 32, 32),
        "loader": batches,
        "pixel_loader": [(x, torch.randint(3, (len(x), 32, 32))) for x, _ in batches],
        "detection_loader": [([torch.rand(3, 64, 64)] * 2, [box] * 2)] * 2,
    }


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun tells a single process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("page", RUN)
@pytest.mark.usefixtures("here", "one_process")
def test_a_page_runs_from_top_to_bottom(page: str) -> None:
    space = preamble()
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        for number, block in enumerate(blocks(page), start=1):
            if block.language == "python" and is_possible(block):
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", FxpruneWarning)
                exec(compile(block.code, f"{page}, block {number}", "exec", dont_inherit=True), space)
            elif block.language == "sh" and block.mark == "run":
                for words in commands(block.code):
                    assert exit_code(words) in ((0, 1) if words[0] == "diff" else (0,)), words


def is_possible(block: Block) -> bool:
    """Say whether the package that the comment in front of a block asks for is installed."""
    return all(importlib.util.find_spec(name) for name in block.mark.removeprefix("needs ").split())


def exit_code(words: list[str]) -> int:
    try:
        main(words)
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def test_what_is_not_run_only_lacks_a_package_of_others() -> None:
    marks = {(one.language, one.mark) for page in PAGES for one in blocks(page) if one.mark}
    assert marks == {("sh", "run"), ("sh", "test command"), ("python", "needs torch_pruning")}


@pytest.mark.parametrize("page", SHELL)
def test_commands_and_options_exist(page: str) -> None:
    for block in blocks(page, "sh"):
        for name, *words in commands(block.code):
            assert name in cli.commands
            context = cli.commands[name].make_context(name, list(words), parent=click.Context(cli))
            if name == "run":
                assert parse_passes(context.params["spec"])


@pytest.mark.parametrize("page", PAGES)
def test_what_the_text_names_exists(page: str) -> None:
    taken = [parameter for one in (cli, *cli.commands.values()) for parameter in one.params]
    known = {option for parameter in taken for option in parameter.opts} | OPTIONS_OF_OTHERS
    for code in re.findall(r"`([^`]+)`", prose(page)):
        if page != "docs/results.md" and "benchmarks" not in code and "torchvision:" not in code:
            assert {word for word in code.split() if re.fullmatch(r"--[a-z-]+", word)} <= known, code
        for name in re.findall(r"\bfxprune\.([\w.]*\w)", code):
            if name not in ("passes", "criteria", "searches", "ops"):  # groups of entry points too
                reduce(getattr, name.split("."), fxprune)
        for name in re.findall(r"^fxprune ([a-z]+)", code):
            assert name in cli.commands, code


def test_every_page_has_one_title_and_is_linked() -> None:
    readme, index = PAGES["README.md"].read_text(), PAGES["docs/index.md"].read_text()
    for name, path in PAGES.items():
        assert len(re.findall(r"^# ", re.sub(FENCE, "", path.read_text()), re.MULTILINE)) == 1, name
        if name not in ("README.md", "docs/index.md"):
            assert f"]({path.name})" in index, name
            assert f"]({name})" in readme, name


@pytest.mark.parametrize("question", QUESTIONS)
def test_questions_are_titles(question: str) -> None:
    titles = [path.read_text().splitlines()[0] for path in PAGES.values()]
    assert operator.countOf((question in title for title in titles), True) == 1
    assert all(title.endswith("?") for title in titles if question in title)


def test_the_readme_is_short_and_names_the_test_command() -> None:
    text = PAGES["README.md"].read_text()
    assert len(text.splitlines()) <= 150
    assert len(re.findall(r"<!-- test command -->\n```sh\n[^\n]*pytest[^\n]*\n```\n", text)) == 1
