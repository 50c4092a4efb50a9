"""Types that the tests of what is rendered share."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page

from fxprune import GraphDiff

Stages = list[tuple[str, GraphDiff]]
Open = Callable[[str], Page]
