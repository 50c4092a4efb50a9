// The controls of the page: what stands above the rows, and what keys, clicks and buttons do.

// ---- what a row, a key or a button does

function activate() {
  const row = view.rows[view.cursor];
  if (!row) return;
  if (row.type === "line") openDetails();
  else if (row.type === "group") setFolded(row.group.path, !row.closed);
  else {
    for (let index = row.first; index < row.last; index += 1) state.revealed.add(index);
    layout();
  }
}

function setFolded(path, folded) {
  if (folded) state.folded.add(path);
  else state.folded.delete(path);
  layout();
  moveTo(view.cursor);
}

/** Fold the module of the row, or unfold it where it is folded. */
function foldHere() {
  const row = view.rows[view.cursor];
  if (row?.type === "group") return setFolded(row.group.path, !row.closed);
  for (let at = view.cursor; at >= 0; at -= 1) {
    const {type, group, depth} = view.rows[at];
    if (type === "group" && depth < row.depth) {
      view.cursor = at;
      return setFolded(group.path, true);
    }
  }
}

function foldAll() {
  if (state.sort) return;
  const paths = [];
  const visit = (group) => group.children.forEach((child) => {
    if (typeof child === "object") { paths.push(child.path); visit(child); }
  });
  visit(view.tree);
  state.folded = new Set(state.folded.size ? [] : paths);
  layout();
  moveTo(view.cursor);
}

function openDetails() {
  const row = view.rows[view.cursor];
  if (row?.type !== "line") return closeDetails();
  fillDetails(details, view, view.lines[row.first], {
    go: (name, side) => reveal(({nodes}) => nodes[side]?.name === name),
    toStage,
    close: () => { closeDetails(); scroller.focus(); },
  });
  if (details.hidden) { details.hidden = false; drawOverview(); }
  keepInSight();
}

function closeDetails() {
  if (!details.hidden) { details.hidden = true; drawOverview(); }
  keepInSight();
}

function setFocused(focused) {
  state.focused = focused;
  state.revealed.clear();
  get("focus").setAttribute("aria-pressed", focused);
  layout();
  moveTo(view.cursor);
}

function setQuery(query) {
  state.query = query;
  state.revealed.clear();
  get("search").value = query;
  layout();
  if (query) scroller.scrollTop = 0;
  moveTo(query ? Math.max(0, view.rows.findIndex(({type}) => type === "line")) : view.cursor);
}

/** Sort by a column; the same column again sorts the other way, and a third time not at all. */
function sortBy(side, column) {
  const {sort} = state, ways = ["name", "op"].includes(column) ? ["ascending", "descending"] : ["descending", "ascending"];
  const known = sort?.side === side && sort.column === column ? ways.indexOf(sort.order) : -1;
  setSort(known === 1 ? null : {side, column, order: ways[known + 1]});
}

/** Show the lines in another order, from the top; or, for null, in that of the graph, where the cursor is. */
function setSort(sort) {
  state.sort = sort;
  for (const cell of get("columns").querySelectorAll("[data-column]")) {
    const {side, column} = cell.dataset;
    cell.setAttribute("aria-sort", sort?.column === column && sort.side === Number(side) ? sort.order : "none");
  }
  get("unsort").hidden = sort === null;
  layout();
  if (sort) scroller.scrollTop = 0;
  moveTo(sort ? 0 : view.cursor);
}

function toStage(stage) {
  if (stage < 0 || stage >= data.stages.length) return;
  const line = view.lines[view.rows[view.cursor]?.first];
  state.stage = stage;
  state.revealed.clear();
  get("step").value = stage;
  showStep();
  prepareStage();
  const sameName = ({nodes}) => nodes.some((node, side) => node && node.name === line.nodes[side]?.name);
  const find = (same) => line ? view.lines.findIndex((one) => one.path === line.path && same(one)) : -1;
  const first = [find(sameName), find(() => true)].find((index) => index >= 0) ?? -1;
  layout({key: `line ${first}`, first: Math.max(0, first)});
  moveTo(view.cursor);
}

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  showTheme();
}

// ---- what stands above the rows

function showTheme() {
  const {theme} = document.documentElement.dataset;
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  get("theme").textContent = dark ? "Light" : "Dark";
  if (view) drawOverview();
}

function showStep() {
  const {stage} = state;
  get("step-name").textContent = stage === WHOLE ? `all ${WHOLE} steps` : `${stage + 1} of ${WHOLE}: ${data.stages[stage].name}`;
  get("step").setAttribute("aria-valuetext", get("step-name").textContent);
  get("earlier").disabled = stage === 0;
  get("later").disabled = stage === WHOLE;
}

function showTiles({tiles}) {
  get("tiles").replaceChildren(...tiles.map(({label, whole, part, change}) => {
    if (whole === null) return el("div", {title: exact(part)}, el("dt", {}, label), el("dd", {}, short(part)));
    const share = whole ? part / whole : 0, fill = el("i");
    fill.style.width = `${Math.min(1, share) * 100}%`;
    const text = (number) => !change ? `${number(part)} of ${number(whole)}`
      : part === whole ? number(part) : `${number(whole)} → ${number(part)}`;
    const percent = !change ? `${(share * 100).toFixed(1)}%` : part === whole ? "unchanged"
      : `${share < 1 ? "−" : "+"}${Math.abs((1 - share) * 100).toFixed(1)}%`;
    return el("div", {title: text(exact)}, el("dt", {}, label),
      el("dd", {}, text(short), " ", whole ? el("b", {}, percent) : null), el("span", {class: "bar"}, fill));
  }));
}

function showLegend() {
  const counts = view.tree.counts;
  get("legend").replaceChildren(...data.kinds.map(({name, mark}, kind) =>
    el("li", {}, el("span", {class: `badge ${name}`}, mark || "·"), ` ${counts[kind]} ${name}`)));
}

function showColumns() {
  const heading = (side, column, label, means) => {
    const button = el("button", {type: "button", title: `Sort by ${means}`}, label);
    button.addEventListener("click", () => sortBy(side, column));
    return el("span", {class: column, role: "columnheader", "aria-sort": "none", "data-side": side, "data-column": column}, button);
  };
  const sides = data.sides.map(([label, side]) => el("div", {class: "side", role: "none"}, el("span", {class: "wires"}),
    heading(side, "name", label, "name"), heading(side, "op", "op", "op"), heading(side, "macs", "MACs", "MACs"),
    heading(side, "params", "params", "parameters"), heading(side, "scale", "scale", "scale")));
  get("columns").append(...withMark(sides, ""));
  get("columns").querySelector(".mark").setAttribute("role", "columnheader");
  get("columns").querySelector(".mark").setAttribute("aria-label", "mark");
}

/** What was measured of both graphs as wholes, whatever step is shown; and what was not. */
function showMeasured({rows, missing}) {
  get("measured").replaceChildren(...rows.map(([label, form, before, after]) => {
    const [one, other] = [before, after].map(FORMS[form]);
    return el("div", {}, el("dt", {}, label),
      el("dd", {}, one === other ? other : `${one} → ${other}`, " ", el("b", {}, changeText(form, before, after))));
  }));
  get("measured").hidden = !rows.length;
  get("missing").textContent = `not measured: ${missing.join(", ")}`;
  get("missing").hidden = !missing.length;
}

// ---- wiring

const KEYS = {
  j: () => moveTo(view.cursor + 1), ArrowDown: () => moveTo(view.cursor + 1),
  k: () => moveTo(view.cursor - 1), ArrowUp: () => moveTo(view.cursor - 1),
  n: () => moveToMark(1), p: () => moveToMark(-1),
  g: () => moveTo(0), Home: () => moveTo(0),
  G: () => moveTo(view.rows.length - 1), End: () => moveTo(view.rows.length - 1),
  PageDown: () => moveTo(view.cursor + pageRows()), PageUp: () => moveTo(view.cursor - pageRows()),
  Enter: activate, " ": activate, f: foldHere, F: foldAll,
  ArrowLeft: () => { const row = view.rows[view.cursor]; if (row?.type !== "group" || !row.closed) foldHere(); },
  ArrowRight: () => { const row = view.rows[view.cursor]; if (row?.type === "group" && row.closed) foldHere(); },
  c: () => setFocused(!state.focused), t: toggleTheme,
  "/": () => { get("search").focus(); get("search").select(); },
  o: () => setSort(null),
  "[": () => toStage(state.stage - 1), "]": () => toStage(state.stage + 1),
  "?": () => get("keys").showModal(),
  Escape: () => { if (!details.hidden) closeDetails(); else setQuery(""); scroller.focus(); },
};
const OF_CONTROLS = new Set(["Enter", " ", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"]);
const pageRows = () => Math.max(1, Math.floor(scroller.clientHeight / ROW) - 2);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || get("keys").open) return;
  const {target, key} = event;
  if (target === get("search")) {
    if (key === "Escape") setQuery("");
    else if (key !== "Enter" && key !== "ArrowDown") return;
    scroller.focus();
  } else {
    if (!KEYS[key] || (target !== scroller && target !== document.body && OF_CONTROLS.has(key))) return;
    KEYS[key]();
  }
  event.preventDefault();
});
get("search").addEventListener("input", () => setQuery(get("search").value));
get("focus").addEventListener("click", () => setFocused(!state.focused));
get("fold").addEventListener("click", foldAll);
get("unsort").addEventListener("click", () => { setSort(null); scroller.focus(); });
get("theme").addEventListener("click", toggleTheme);
get("help").addEventListener("click", () => get("keys").showModal());
get("step").addEventListener("input", () => toStage(Number(get("step").value)));
get("earlier").addEventListener("click", () => toStage(state.stage - 1));
get("later").addEventListener("click", () => toStage(state.stage + 1));
rowsElement.addEventListener("click", (event) => {
  const row = event.target.closest(".row");
  if (!row) return;
  moveTo(Number(row.dataset.at));
  activate();
});
overview.addEventListener("click", (event) => {
  const share = event.offsetY / Math.min(overview.clientHeight, view.rows.length * 4);
  const at = Math.min(view.rows.length - 1, Math.floor(share * view.rows.length));
  scroller.scrollTop = at * ROW - scroller.clientHeight / 2;
  moveTo(at);
});
let waiting = false;
scroller.addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
});
window.addEventListener("resize", () => { draw(); drawOverview(); });
window.addEventListener("beforeprint", drawAll);
window.addEventListener("afterprint", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);

if (data.sides.length === 1) document.body.classList.add("single");
get("focus").textContent = data.focus.label;
get("focus").title = `${data.focus.label} (c)`;
get("notes").textContent = data.notes.join(" ");
get("notes").hidden = !data.notes.length;
get("steps").hidden = data.stages.length < 2;
get("step").max = WHOLE;
get("step").value = WHOLE;
showColumns();
showMeasured(data.measured);
showStep();
prepareStage();
layout(null);
showTheme();
scroller.focus({preventScroll: true});
