"""The script of a folder with a network a partition: plain PyTorch, which needs no fxprune."""

SCRIPT = '''"""Run the partitions beside this file as one network, a process each; their outputs are added up once.

    python run.py inputs.pt outputs.pt                 all processes on this machine
    torchrun --nnodes 2 --nproc-per-node 1 ... run.py inputs.pt outputs.pt      on several, as torchrun says

inputs.pt is a tensor, or a tuple of them, written by torch.save; process 0 writes outputs.pt. A process has one
thread unless OMP_NUM_THREADS says otherwise. Where one dies the others end too, with a line that says so.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from datetime import timedelta

import torch
import torch.distributed as dist

HERE = pathlib.Path(__file__).resolve().parent
COUNT = len(list(HERE.glob("part*/model.py")))
SECONDS = float(os.environ.get("PARTITION_TIMEOUT", "60"))


def part(rank):
    """Return the network of one partition, in eval mode."""
    spec = importlib.util.spec_from_file_location(f"part{rank}", HERE / f"part{rank}" / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()


def output(model, inputs):
    """Return what all partitions compute together; each process calls it with the same inputs."""
    with torch.inference_mode():
        logits = model(*inputs).contiguous()
        dist.all_reduce(logits)
    return logits


def join(file=None, rank=None):
    """Join the other processes: by a file that all see, or as torchrun says."""
    options = {} if file is None else {"init_method": f"file://{file}", "rank": rank, "world_size": COUNT}
    dist.init_process_group("gloo", timeout=timedelta(seconds=SECONDS), **options)
    if dist.get_world_size() != COUNT:
        raise RuntimeError(f"there are {COUNT} partitions, and {dist.get_world_size()} processes")
    return dist.get_rank()


def work(source, target, *meeting):
    """Be one of the processes."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    who = f"partition {meeting[1] if meeting else os.environ['RANK']}"
    try:
        inputs = torch.load(source, weights_only=True)
        rank = join(*meeting)
        logits = output(part(rank), inputs if isinstance(inputs, tuple) else (inputs,))
        if rank == 0:
            torch.save(logits, target)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"{who}: {str(error).splitlines()[0]}")
    dist.destroy_process_group()


def watch(processes):
    """Wait for all processes; return which was the first to fail, and how, once the others are ended too."""
    while any(one.poll() is None for one in processes):
        failed = [rank for rank, one in enumerate(processes) if one.poll() not in (None, 0)]
        if failed:
            break
        time.sleep(0.01)
    failed = [(rank, one.poll()) for rank, one in enumerate(processes) if one.poll() not in (None, 0)]
    for one in processes:
        if one.poll() is None:
            one.kill()
        one.wait()
    return failed[0] if failed else None


def main(source, target):
    """Run all partitions on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, source, target, str(pathlib.Path(folder, "meeting"))]
        processes = [subprocess.Popen([*command, str(rank)]) for rank in range(COUNT)]
        failed = watch(processes)
    if failed:
        sys.exit(f"partition {failed[0]} ended with code {failed[1]}: the other processes were ended")


if __name__ == "__main__":
    if len(sys.argv) == 5:
        work(*sys.argv[1:4], int(sys.argv[4]))
    elif len(sys.argv) != 3:
        sys.exit("run.py takes two files: inputs.pt outputs.pt")
    elif "RANK" in os.environ:
        work(*sys.argv[1:3])
    else:
        main(*sys.argv[1:3])
'''
