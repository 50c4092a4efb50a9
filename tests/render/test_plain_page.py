"""Pages of texts and tables: escaped, without a script unless a table can be sorted."""

from __future__ import annotations

from render_helpers import Open

from fxprune.render.plain_page import Cell, plain_page, table

ROWS: list[list[Cell]] = [["b", ("9 ms", 9.0)], ["a<i>", ("10 ms", 10.0)], ["c", ""]]
CELLS: list[list[Cell]] = [["<c>"], [("<d>", 1.0)]]


def test_there_is_a_script_only_where_something_can_be_sorted() -> None:
    plain = plain_page("T", [table(("name", "time"), ROWS)])
    assert "<script" not in plain
    assert "script-src" not in plain
    assert "script-src 'sha256-" in plain_page("T", [table(("name", "time"), ROWS, sortable=True)])


def test_everything_is_escaped() -> None:
    page = plain_page("<T>", [table(("<h>",), CELLS, sortable=True)])
    assert page.isascii()
    for text in ("T", "h", "c", "d"):
        assert f"<{text}>" not in page
        assert f"&lt;{text}&gt;" in page


def test_a_click_sorts_by_numbers_and_another_the_other_way(opened: Open) -> None:
    tab = opened(plain_page("T", [table(("name", "time"), ROWS, sortable=True)]))

    def names() -> list[str]:
        return [text.split("\t")[0] for text in tab.locator("tbody tr").all_inner_texts()]

    time = tab.locator("th").nth(1)
    time.locator("button").click()
    assert names() == ["a<i>", "b", "c"]
    assert time.get_attribute("aria-sort") == "descending"
    time.locator("button").click()
    assert names() == ["c", "b", "a<i>"]
    tab.locator("th button").first.focus()
    tab.keyboard.press("Enter")
    assert names() == ["a<i>", "b", "c"]
    assert time.get_attribute("aria-sort") is None
