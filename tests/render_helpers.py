"""What the tests of pages share: types, keys, and what is on the screen."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page

from fxprune import GraphDiff

Stages = list[tuple[str, GraphDiff]]
Open = Callable[[str], Page]
LINES = ".row.line"


def press(tab: Page, *keys: str) -> None:
    for key in keys:
        tab.keyboard.press(key)


def lines(tab: Page) -> int:
    return tab.locator(LINES).count()


def selected(tab: Page) -> str:
    """Return the text of the row that assistive technology is told of."""
    active = tab.locator("#scroller").get_attribute("aria-activedescendant")
    row = tab.locator(f"#{active}")
    assert row.get_attribute("aria-selected") == "true"
    assert tab.locator('.row[aria-selected="true"]').count() == 1
    return row.inner_text()
