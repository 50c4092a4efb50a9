"""Where in the user's code something happened."""

from __future__ import annotations

import itertools
import linecache
import os
import sys
import traceback
from functools import cache
from pathlib import Path
from types import FrameType

import torch

_LIBRARY_FOLDERS = tuple(
    f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parent.parent)
)

RUNS_A_NODE = "run_recorded_node"  # the function of ours below which frames are not the user's code


@cache
def is_librarys(filename: str) -> bool:
    """Say whether a file is torch's or fxprune's."""
    return filename.startswith(_LIBRARY_FOLDERS)


@cache
def is_own(filename: str) -> bool:
    """Say whether a file is the user's, or another library's, but neither torch's nor fxprune's."""
    return not filename.startswith((*_LIBRARY_FOLDERS, "<"))


def line_of_error(error: BaseException) -> str:
    """Return ``file:line: source`` of the innermost frame of ``error`` that is not torch's and not ours.

    Where the error arose in a node that a tracer ran, it is the line that made the node.
    """
    frames = list(
        itertools.takewhile(
            lambda frame: frame.name != RUNS_A_NODE or is_own(frame.filename),
            traceback.extract_tb(error.__traceback__),
        )
    )
    for frame in reversed(frames):
        if is_own(frame.filename):
            source = frame.line or linecache.getline(frame.filename, frame.lineno or 0).strip()
            return f"{frame.filename}:{frame.lineno}: `{source}`"
    return "in forward"


def current_line() -> str:
    """Return ``file:line: source`` (the file without its folder) of the line of the user's that is running."""
    frame = _own_frame()
    name, number = frame.f_code.co_filename, frame.f_lineno
    return f"{Path(name).name}:{number}: `{linecache.getline(name, number).strip()}`"


def current_frame() -> str:
    """Return the line of the user's that is running as a stack trace of one line, as torch.fx keeps it on a node."""
    frame = _own_frame()
    return f'File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}'


def _own_frame() -> FrameType:
    frame = sys._getframe(2)
    while frame.f_back is not None and not is_own(frame.f_code.co_filename):
        frame = frame.f_back
    return frame
