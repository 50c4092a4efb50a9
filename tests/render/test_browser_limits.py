"""The page at its limits, in a headless Chromium: on paper, with 5,000 nodes, with names that mean harm."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from render_helpers import LINES, Open, lines, press, selected

from fxprune import GraphDiff
from fxprune.diffing.entries import Change, Kind, NodeInfo, Reason, Totals
from fxprune.render.html import page


def test_print_has_all_rows_and_no_controls(opened: Open) -> None:
    tab = opened(page([], long_diff(1000), title="long"))
    assert 0 < tab.locator(".row").count() < 200
    tab.emulate_media(media="print")
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert lines(tab) == 1000
    assert not any(
        tab.locator(f"#{control}").is_visible() for control in ("search", "focus", "fold", "theme", "help")
    )
    tab.emulate_media(media="screen")
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert 0 < tab.locator(".row").count() < 200
    assert tab.pdf().count(b"/Type /Page\n") > 10


def test_large_graphs_scroll_and_search(opened: Open) -> None:
    text = page([(f"step-{n}", long_diff(5000)) for n in range(3)], long_diff(5000), title="large")
    tab = opened(text)
    assert tab.locator("#scroller").get_attribute("aria-rowcount") == str(5000 + 1250 + 2)  # and modules, and columns
    rows = tab.locator(".row").count()
    press(tab, "G")
    assert "conv4999" in selected(tab)
    assert tab.locator(".row").count() <= rows + 20
    order = [int(at or 0) for at in tab.locator(".row").evaluate_all("rows => rows.map(row => row.dataset.at)")]
    assert all(after == before + 1 for before, after in pairwise(order))
    tab.locator("#search").fill("node2500")
    assert lines(tab) == 1


def test_the_page_of_a_thousand_nodes_and_ten_steps_is_small() -> None:
    stages = [(f"step-{n}", long_diff(1000, renamed=f"_{n}")) for n in range(10)]
    assert len(page(stages, long_diff(1000), title="size").encode()) < 3_000_000


def long_diff(count: int, renamed: str = "") -> GraphDiff:
    """Return a diff of a chain with skips, four nodes a module."""
    kinds: tuple[Kind, ...] = ("unchanged", "removed", "added", "changed")
    changes = []
    for index in range(count):
        kind = kinds[index % 4]
        reads = tuple(f"node{i}{renamed}" for i in (index - 1, index - 30) if i >= 0)
        name, path = f"node{index}{renamed}", f"stage.{index // 4}.conv{index}"
        node = NodeInfo(name, "Conv2d", path, reads, (1, 64, 56, 56), 115_605_504, 36_864, 0.5, "3x3, 64 -> 64")
        before = () if kind == "added" else (node,)
        why = () if kind == "unchanged" else (Reason("some-pass", f"the rule for node {index}", 0),)
        changes.append(
            Change(kind, before, None if kind == "removed" else node, ("kernel",) if kind == "changed" else (), why)
        )
    return GraphDiff(tuple(changes), Totals(count, 1, 1), Totals(count, 1, 1), "origin")


HOSTILE = (
    "</script><script>window.harmed = 1</script>",
    "<img src=x onerror='window.harmed = 1'>",
    "\"'`${window.harmed = 1}",
    "]]>--><!--",
    "ünïcödé.層.🙂\u2028\u2029\u202e\x07",
    "javascript:alert(1)",
    "__proto__.constructor",
    "$title",
)


def test_hostile_names_are_text(opened: Open) -> None:
    node = NodeInfo("", "relu", "", (), (1,), 0, 0, 0.5, "")
    changes = [
        Change("changed", (replace(node, name=f"n{text}", path=text, op=text, detail=text, inputs=(f"n{text}",)),),
               replace(node, name=f"n{text}", path=text, op=text), ("op",), (Reason(text, text, 0),))
        for text in HOSTILE
    ]  # fmt: skip
    found = GraphDiff(tuple(changes), Totals(8, 0, 0), Totals(8, 0, 0), "guess")
    tab = opened(page([(text, found) for text in HOSTILE], found, title=HOSTILE[0]))
    assert tab.locator("h1").inner_text() == HOSTILE[0]
    assert "a guess" in tab.locator("#notes").inner_text()
    titles = tab.locator(f"{LINES} .side:first-child .name").evaluate_all("names => names.map(name => name.title)")
    assert sorted(titles) == sorted(HOSTILE)
    for text in reversed(HOSTILE):
        press(tab, "[")
        assert text.split("\u2028")[0] in str(tab.locator("#step-name").text_content())
    for row in range(lines(tab)):
        tab.locator(LINES).nth(row).click()
        assert tab.locator("#details h2").text_content() in HOSTILE
    assert tab.locator("img, iframe, a, object").count() == 0
    assert tab.evaluate("window.harmed") is None
    assert tab.evaluate("document.scripts.length") == 2
