import os
from pathlib import Path

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from fxprune.errors import TargetError
from fxprune.ir.processes import by_the_first, share_of, sum_up, total


def test_alone_everything_is_ones_own() -> None:
    assert share_of(range(3)) == [0, 1, 2]
    one = torch.ones(2)
    sum_up(one)
    assert one.tolist() == [1, 1]
    assert total(5) == 5
    assert by_the_first(lambda: 3) == 3


def _refused() -> None:
    raise TargetError("too little")


def _work(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    own = share_of(range(5))
    held = torch.tensor(float(sum(own)))
    sum_up(held)
    told = by_the_first(lambda: f"from {rank}")
    try:
        by_the_first(_refused)
    except TargetError as error:
        told += f", {error}"
    Path(folder, f"{rank}.txt").write_text(f"{own} {held:g} {total(len(own))} {told}")
    distributed.destroy_process_group()


def test_of_two_each_has_its_share_sums_are_of_both_and_the_first_tells_or_fails_for_all(tmp_path: Path) -> None:
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    spawn(_work, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    assert (tmp_path / "0.txt").read_text() == "[0, 2, 4] 10 5 from 0, too little"
    assert (tmp_path / "1.txt").read_text() == "[1, 3] 10 5 from 0, too little"
