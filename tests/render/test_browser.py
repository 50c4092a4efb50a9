"""Every control of the page, in a headless Chromium; what it shows is compared with the diff."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page
from render_helpers import LINES, Open, Stages, lines, press, selected

from fxprune import GraphDiff
from fxprune.diffing.entries import KINDS
from fxprune.render.html import page
from fxprune.render.measured import measured_in


@pytest.fixture
def tab(opened: Open, pruned: tuple[Stages, GraphDiff]) -> Page:
    stages, whole = pruned
    return opened(page(stages, whole, title="TinyNet"))


def select(tab: Page, name: str) -> None:
    tab.locator(LINES).filter(has=tab.locator(f'.name[title="{name}"]')).first.click()


def test_every_node_is_on_a_line_and_matching_ones_on_the_same(tab: Page, pruned: tuple[Stages, GraphDiff]) -> None:
    whole = pruned[1]
    assert lines(tab) == whole.before.nodes + whole.count("added")
    for kind in KINDS:
        nodes = sum(max(1, len(change.before)) for change in whole.changes if change.kind == kind)
        assert tab.locator(f"{LINES}.{kind}").count() == nodes
        assert f"{whole.count(kind)} {kind}" in tab.locator("#legend").inner_text()
    for row in tab.locator(f"{LINES}.unchanged").all():
        before, after = row.locator(".name").all_inner_texts()
        assert before.removeprefix("i") == after.removeprefix("i")  # x += y is recorded as x + y, and the same sum
    for row in tab.locator(f"{LINES}.removed").all():
        assert row.locator(".name").count() == 1
        assert row.locator(".side.none").count() == 1
        assert row.locator(".mark").inner_text() == "\N{MINUS SIGN}"
    fused = tab.locator(f"{LINES}.fused").all_inner_texts()
    assert "part of 0" in fused[1]  # stem.0 took stem.1 in


def test_totals(tab: Page, pruned: tuple[Stages, GraphDiff]) -> None:
    whole = pruned[1]
    titles = [tile.get_attribute("title") for tile in tab.locator("#tiles > div").all()]
    assert titles[0] == f"{whole.before.macs:,} → {whole.after.macs:,}"
    assert titles[2] == f"{whole.before.nodes:,} → {whole.after.nodes:,}"
    assert tab.locator("h1").inner_text() == "TinyNet"
    assert tab.locator("#notes").is_hidden()


def test_scales_stand_beside_the_layers_that_had_them(tab: Page) -> None:
    conv1, conv2 = (tab.locator(LINES).filter(has_text="Conv2d").nth(index).locator(".scale") for index in (1, 2))
    assert conv1.first.inner_text() == "0"
    assert conv2.first.inner_text() == "0.5"
    widths = [one.locator("i").first.evaluate("bar => bar.style.width") for one in (conv1, conv2)]
    assert widths == ["0%", "50%"]


def test_skip_connections_are_drawn_and_lit(tab: Page) -> None:
    select(tab, "stem.2")
    press(tab, "Escape")
    rows = tab.locator(".row").all()
    lit = [bool(row.locator(".side").first.locator(".wire.lit").count()) for row in rows]
    first, last = lit.index(True), len(lit) - 1 - lit[::-1].index(True)
    assert all(lit[first : last + 1])
    assert "add" in rows[last].inner_text()  # x of x + R(x)
    assert last - first > 4


def test_modules_fold(tab: Page) -> None:
    everything = lines(tab)
    header = tab.locator(".row.group").filter(has_text="block1")
    header.click()
    assert header.get_attribute("aria-expanded") == "false"
    assert lines(tab) == everything - 7
    assert selected(tab).startswith("▸block1")
    header.click()
    assert lines(tab) == everything
    select(tab, "block2.conv1")
    press(tab, "Escape", "f")  # the module around the layer
    assert selected(tab).startswith("▸block2")
    press(tab, "ArrowRight")
    assert lines(tab) == everything
    press(tab, "ArrowLeft")
    assert lines(tab) == everything - 7
    press(tab, "F")
    assert lines(tab) == everything
    press(tab, "F")
    assert lines(tab) == everything - 7 - 7 - 3
    assert tab.locator("#fold").inner_text() == "Unfold all"
    tab.locator("#fold").click()
    assert lines(tab) == everything


def test_search(tab: Page) -> None:
    press(tab, "/")
    tab.keyboard.type("conv2 BLOCK")
    assert tab.locator(f"{LINES} .side:first-child .name").all_inner_texts() == ["conv2", "conv2"]
    assert tab.locator("#status").inner_text() == "2 layers match"
    assert tab.locator(".row.gap").count() > 0
    press(tab, "Enter")
    assert "conv2" in selected(tab)
    press(tab, "Escape")
    assert tab.locator("#search").input_value() == ""
    assert tab.locator(".row.gap").count() == 0
    tab.locator("#search").fill("removed relu")
    assert 0 < lines(tab) == tab.locator(f"{LINES}.removed").count()
    for op in ("conv2d", "batchnorm"):
        tab.locator("#search").fill(op)
        assert lines(tab) == 5
    tab.locator("#search").fill("no such layer")
    assert lines(tab) == 0
    assert "0 layers match" in tab.locator("#status").inner_text()
    press(tab, "Escape")
    assert tab.evaluate("document.activeElement.id") == "scroller"


def test_changed_only(tab: Page, pruned: tuple[Stages, GraphDiff]) -> None:
    unchanged = pruned[1].count("unchanged")
    everything = lines(tab)
    tab.locator("#focus").click()
    assert tab.locator("#focus").get_attribute("aria-pressed") == "true"
    assert lines(tab) == everything - unchanged
    gap = tab.locator(".row.gap").first
    assert gap.inner_text().strip() == "⋯ 1 unchanged"
    gap.click()  # shows what it stands for
    assert lines(tab) == everything - unchanged + 1
    press(tab, "c")
    assert tab.locator("#focus").get_attribute("aria-pressed") == "false"
    assert lines(tab) == everything


def test_the_slider_goes_through_the_steps(tab: Page, pruned: tuple[Stages, GraphDiff]) -> None:
    """The first step is at its left, all of them together at its right, where the page opens."""
    stages, whole = pruned

    def shows(found: GraphDiff, name: str) -> None:
        assert name in tab.locator("#step-name").inner_text()
        legend = tab.locator("#legend").inner_text()
        assert all(f"{found.count(kind)} {kind}" in legend for kind in KINDS)

    shows(whole, f"all {len(stages)} steps")
    assert tab.locator("#later").is_disabled()
    for name, one in reversed(stages):
        press(tab, "[")
        shows(one, name)
    assert tab.locator("#earlier").is_disabled()
    assert "1 of" in tab.locator("#step-name").inner_text()
    press(tab, "[")
    shows(stages[0][1], stages[0][0])
    press(tab, "]")
    shows(stages[1][1], stages[1][0])
    tab.locator("#step").fill("2")
    shows(stages[2][1], stages[2][0])
    tab.locator("#earlier").click()
    tab.locator("#later").click()
    shows(stages[2][1], stages[2][0])
    tab.locator("#step").focus()
    press(tab, "Home")
    shows(stages[0][1], stages[0][0])
    press(tab, "End")
    shows(whole, "all")


def names(tab: Page, side: int) -> list[str]:
    """Return the paths of the nodes of one side, top to bottom."""
    cells = tab.locator(f"{LINES} .side:nth-child({2 * side + 1}) .name")
    return [str(title) for title in cells.evaluate_all("names => names.map(name => name.title)")]


def heading(tab: Page, side: int, column: str) -> Locator:
    return tab.locator(f'[role="columnheader"][data-side="{side}"][data-column="{column}"]')


@pytest.mark.parametrize("column", ["macs", "params"])
def test_numbers_sort_from_the_most(tab: Page, pruned: tuple[Stages, GraphDiff], column: str) -> None:
    in_graph_order, everything = names(tab, 0), lines(tab)
    nodes = {node.path or node.name: node for change in pruned[1].changes for node in change.before}
    assert heading(tab, 0, column).get_attribute("aria-sort") == "none"
    heading(tab, 0, column).get_by_role("button").click()
    assert heading(tab, 0, column).get_attribute("aria-sort") == "descending"
    assert tab.locator(".row.group").count() == 0
    assert lines(tab) == everything
    found = [getattr(nodes[name], column) for name in names(tab, 0)]
    assert found == sorted(found, reverse=True)
    heading(tab, 0, column).get_by_role("button").click()
    assert heading(tab, 0, column).get_attribute("aria-sort") == "ascending"
    assert [getattr(nodes[name], column) for name in names(tab, 0)] == found[::-1]
    heading(tab, 0, column).get_by_role("button").click()
    assert heading(tab, 0, column).get_attribute("aria-sort") == "none"
    assert names(tab, 0) == in_graph_order
    assert tab.locator(".row.group").count() > 0


def test_sorting_by_keyboard_and_by_text(tab: Page) -> None:
    in_graph_order = names(tab, 1)
    heading(tab, 1, "name").get_by_role("button").focus()
    press(tab, "Enter")
    assert heading(tab, 1, "name").get_attribute("aria-sort") == "ascending"
    known = names(tab, 1)
    assert known == sorted(known, key=str.lower) != in_graph_order
    assert tab.locator(LINES).last.locator(".side.none, .into").count() == 1  # what has no node there comes last
    press(tab, "Space")
    assert heading(tab, 1, "name").get_attribute("aria-sort") == "descending"
    assert tab.locator(LINES).last.locator(".side.none, .into").count() == 1
    heading(tab, 0, "op").get_by_role("button").click()
    assert heading(tab, 1, "name").get_attribute("aria-sort") == "none"
    assert heading(tab, 0, "op").get_attribute("aria-sort") == "ascending"
    tab.locator("#scroller").focus()
    press(tab, "F", "o")
    assert names(tab, 1) == in_graph_order
    assert tab.locator("#unsort").is_hidden()
    heading(tab, 0, "scale").get_by_role("button").click()
    assert tab.locator(LINES).first.locator(".side:first-child .scale").inner_text() == "0.5"
    tab.locator("#unsort").click()
    assert names(tab, 1) == in_graph_order


def test_what_is_sorted_can_be_searched_and_stepped_through(tab: Page, pruned: tuple[Stages, GraphDiff]) -> None:
    heading(tab, 0, "params").get_by_role("button").click()
    tab.locator("#search").fill("conv2d")
    assert lines(tab) == 5
    press(tab, "Escape")
    press(tab, "[")
    assert lines(tab) == sum(max(1, len(change.before)) for change in pruned[0][-1][1].changes)
    assert heading(tab, 0, "params").get_attribute("aria-sort") == "descending"


def test_parameters_have_a_column(tab: Page) -> None:
    conv = tab.locator(LINES).filter(has=tab.locator('.name[title="block1.conv2"]'))
    assert conv.locator(".params").first.inner_text() == "324"
    group = tab.locator(".row.group").filter(has_text="block1").locator(".params").first
    assert group.inner_text() == "672"


def test_what_was_measured_stands_on_top(opened: Open, pruned: tuple[Stages, GraphDiff]) -> None:
    report = {
        "accuracy_before": 0.931, "accuracy_after": 0.9295, "activation_bytes_before": 12288,
        "activation_bytes_after": 9216, "latency_ms": {"1": {"before": 1.24, "after": 0.8}, "64": "damaged"},
    }  # fmt: skip
    tab = opened(page(*pruned, title="TinyNet on digits", measured=measured_in(report)))
    assert tab.locator("#measured > div").all_inner_texts() == [
        "held-out top-1\n93.10% → 92.95% \N{MINUS SIGN}0.15 points",
        "batch of 1\n1.24 ms → 0.80 ms \N{MINUS SIGN}35.5%",
        "peak activation memory\n12.3 kB → 9,216 B \N{MINUS SIGN}25.0%",
    ]
    assert tab.locator("#missing").is_hidden()


def test_what_was_not_measured_is_said(tab: Page) -> None:
    assert tab.locator("#missing").inner_text() == "not measured: top-1, ms, memory"
    assert tab.locator("#measured").is_hidden()


def test_a_phone_scrolls_down_only(opened: Open, pruned: tuple[Stages, GraphDiff]) -> None:
    report = {
        "accuracy_before": 0.5,
        "accuracy_after": 0.5,
        "activation_bytes_before": 1,
        "activation_bytes_after": 1,
    }
    title = "a.module.with.a.rather.long.name:and_a_factory_of_it on imagefolder:/a/long/path/to/images"
    tab = opened(page(*pruned, title=title, measured=measured_in(report)))
    tab.set_viewport_size({"width": 360, "height": 740})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.evaluate("[document.getElementById('scroller')].every(one => one.scrollWidth <= one.clientWidth)")
    assert tab.locator("h1").evaluate("one => one.scrollWidth <= one.clientWidth")


def test_a_click_opens_all_that_is_known_of_a_layer(tab: Page) -> None:
    select(tab, "block1.conv1")
    details = tab.locator("#details")
    text = details.inner_text()
    for known in ("removed", "block1.conv1", "3x3, 6 -> 6", "(2, 6, 8, 8)", "20,736", "324", "0, as trained"):
        assert known in text
    assert "its scale is 0" in text
    details.get_by_role("button", name="stem_2", exact=True).click()  # what it reads
    assert details.locator("h2").inner_text() == "stem.2"
    details.get_by_role("button", name="block1_conv1", exact=True).click()  # what reads that
    details.get_by_role("button", name="remove-layers").first.click()  # the step that did it
    assert "remove-layers" in tab.locator("#step-name").inner_text()
    assert details.locator("h2").inner_text() == "block1.conv1"
    details.get_by_role("button", name="Close").click()
    assert details.is_hidden()
    press(tab, "Enter")
    assert details.is_visible()
    press(tab, "j")
    assert details.locator("h2").inner_text() != "block1.conv1"
    press(tab, "Escape")
    assert details.is_hidden()


def test_a_link_leads_into_what_is_folded_or_left_out(tab: Page) -> None:
    tab.locator(".row.group").filter(has_text="block1").click()
    press(tab, "c")
    select(tab, "adaptive_avg_pool2d")
    details = tab.locator("#details")
    details.get_by_role("button", name="flatten").first.click()  # unchanged, so it was left out
    assert "flatten" in selected(tab)
    press(tab, "c")
    tab.locator(".row.group").filter(has_text="block1").click()
    select(tab, "stem.2")
    details.get_by_role("button", name="block1_conv1").click()
    assert "conv1" in selected(tab)


def test_the_keyboard_moves(tab: Page) -> None:
    assert selected(tab).split()[0] == "x"
    press(tab, "j", "ArrowDown", "k")
    assert "stem" in selected(tab)
    press(tab, "n")
    first_mark = selected(tab)
    press(tab, "n", "p")
    assert selected(tab) == first_mark
    press(tab, "G")
    assert selected(tab).split()[0] == "output"
    press(tab, "PageUp", "PageDown", "End")
    assert selected(tab).split()[0] == "output"
    press(tab, "g")
    assert selected(tab).split()[0] == "x"
    press(tab, "G", "Home", "Space")
    assert tab.locator("#details h2").inner_text() == "x"


def test_the_overview_leads_to_where_one_clicks(tab: Page) -> None:
    tab.locator("#overview").click(position={"x": 5, "y": 4})
    assert "stem" in selected(tab)


def test_help_lists_the_keys(tab: Page) -> None:
    press(tab, "?")
    assert tab.locator("#keys").is_visible()
    press(tab, "Escape")
    assert tab.locator("#keys").is_hidden()
    tab.locator("#help").click()
    tab.locator("#keys button").click()
    assert tab.locator("#keys").is_hidden()


def test_light_and_dark_read_well(tab: Page) -> None:
    """Text and marks have the contrast that WCAG asks for, 4.5 to 1, in both themes."""
    themes = []
    for _ in range(2):
        press(tab, "t")
        themes.append(tab.evaluate("document.documentElement.dataset.theme"))
        assert tab.locator("#theme").inner_text() != themes[-1].capitalize()
        pairs = [("text", "bg"), ("muted", "bg"), ("muted", "panel"), ("accent", "bg"), ("text", "cursor")]
        pairs += [(kind, f"{kind}-tint") for kind in KINDS if kind != "unchanged"]
        pairs += [("text", f"{kind}-tint") for kind in KINDS if kind != "unchanged"]
        for front, back in pairs:
            assert contrast(*(colour(tab, name) for name in (front, back))) >= 4.5, (themes[-1], front, back)
    assert sorted(themes) == ["dark", "light"]
    tab.locator("#theme").click()
    assert tab.evaluate("document.documentElement.dataset.theme") == themes[0]


def colour(tab: Page, name: str) -> str:
    value = tab.evaluate("name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`)", name)
    return str(value).strip()


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2.2 of two colours #rrggbb."""

    def luminance(text: str) -> float:
        channels = (int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
