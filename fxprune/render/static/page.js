// The page: what is asked for (state), how it is laid out (view), which rows are in sight, and every control.

const BEYOND = 12; // rows kept above and below those in sight
const get = (id) => document.getElementById(id);
const data = decode(JSON.parse(get("data").textContent));
const state = {stage: 0, query: "", focused: false, folded: new Set(), revealed: new Set()};
const scroller = get("scroller"), rowsElement = get("rows"), details = get("details"), overview = get("overview");
let view = null;
let drawn = new Map(); // row number -> its element

// ---- layout

function prepareStage() {
  const stage = data.stages[state.stage];
  const lines = linesOf(stage);
  const readers = [new Map(), new Map()];
  for (const line of lines) {
    line.words = [data.kinds[line.change.kind].name, ...line.nodes.filter(Boolean).flatMap(
      ({name, path, op, detail}) => [name, path, op, detail])].join("\n").toLowerCase();
    line.nodes.forEach((node, side) => node?.inputs.forEach((name) => {
      const known = readers[side].get(name) ?? [];
      if (known.at(-1) !== node.name) readers[side].set(name, [...known, node.name]);
    }));
  }
  const scaleOf = (node, side) => node.scale ?? (state.stage === 0 && side === 0 ? data.trained[node.name] : null) ?? null;
  view = {lines, readers, scaleOf, tree: treeOf(lines, data.kinds), sides: data.sides, kinds: data.kinds,
    stage: state.stage, stageCount: data.stages.length, rows: [], cursor: 0};
  data.sides.forEach(([, side], index) => scroller.classList.toggle(`scales-${index}`,
    lines.some(({nodes}) => nodes[side] && scaleOf(nodes[side], side) !== null)));
  showTiles(stage);
  showLegend();
}

/** Lay the rows out anew; the cursor stays on the row of ``keep`` or the line of it. */
function layout(keep = view.rows[view.cursor]) {
  const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
  const shows = (index) => {
    const {change, words: text} = view.lines[index];
    if (state.revealed.has(index)) return true;
    return (!state.focused || change.kind !== PLAIN) && words.every((word) => text.includes(word));
  };
  const everything = !state.focused && !words.length;
  view.rows = rowsOf(view.tree, view.lines, words.length ? new Set() : state.folded, everything ? () => true : shows);
  view.gapWord = words.length ? "more" : data.focus.rest;
  view.wires = {};
  for (const [, side] of data.sides) view.wires[side] = wiresOf(view.rows, view.lines, side);
  data.sides.forEach(([, side], index) => scroller.style.setProperty(`--wires-${index}`, `${wiresWidth(view.wires[side])}px`));
  const same = keep ? view.rows.findIndex(({key}) => key === keep.key) : 0;
  const around = keep ? view.rows.findIndex(({first, last}) => first <= keep.first && keep.first < last) : 0;
  view.cursor = Math.max(0, same >= 0 ? same : around);
  get("nothing").hidden = view.rows.length > 0;
  rowsElement.style.height = `${view.rows.length * ROW}px`;
  scroller.setAttribute("aria-rowcount", view.rows.length + 1);
  const matched = view.rows.filter(({type}) => type === "line").length;
  get("status").textContent = words.length ? `${matched} layers match` : `${view.rows.length} rows`;
  get("fold").textContent = state.folded.size ? "Unfold all" : "Fold all";
  redraw();
  drawOverview();
}

// ---- rows in sight

function redraw() {
  rowsElement.replaceChildren();
  drawn = new Map();
  draw();
}

function draw() {
  const first = Math.max(0, Math.floor(scroller.scrollTop / ROW) - BEYOND);
  const last = Math.min(view.rows.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / ROW) + BEYOND);
  for (const [at, element] of drawn) if (at < first || at >= last) { element.remove(); drawn.delete(at); }
  let next = rowsElement.firstElementChild; // rows stand in order, as a screen reader reads them
  for (let at = first; at < last; at += 1) {
    if (drawn.has(at)) { next = drawn.get(at).nextElementSibling; continue; }
    const element = rowElement(view, at);
    element.style.top = `${at * ROW}px`;
    rowsElement.insertBefore(element, next);
    drawn.set(at, element);
  }
  if (view.rows.length) scroller.setAttribute("aria-activedescendant", `row-${view.cursor}`);
  else scroller.removeAttribute("aria-activedescendant");
}

function drawAll() { // for print: every row of this view
  rowsElement.replaceChildren(...view.rows.map((_, at) => rowElement({...view, cursor: -1}, at)));
}

function drawOverview() {
  const {clientWidth: width, clientHeight: height} = overview;
  const ratio = window.devicePixelRatio || 1;
  overview.width = width * ratio;
  overview.height = height * ratio;
  const pen = overview.getContext("2d"), style = getComputedStyle(document.documentElement);
  pen.scale(ratio, ratio);
  const step = height / Math.max(view.rows.length, height / 4);
  view.rows.forEach(({type, first, last}, at) => {
    if (type === "gap") return;
    for (let index = first; index < last; index += 1) {
      const {kind} = view.lines[index].change;
      if (kind === PLAIN) continue;
      pen.fillStyle = style.getPropertyValue(`--${view.kinds[kind].name}`);
      pen.fillRect(3, at * step, width - 6, Math.max(1.5, step - 0.5));
    }
  });
}

// ---- moving

function moveTo(at) {
  if (!view.rows.length) return;
  view.cursor = Math.min(view.rows.length - 1, Math.max(0, at));
  if (details.hidden) keepInSight();
  else openDetails();
}

function keepInSight() {
  const top = view.cursor * ROW, head = get("columns").offsetHeight;
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  else if (top + ROW + head > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + ROW + head - scroller.clientHeight;
  redraw();
}

function moveToMark(direction) {
  const marked = ({type, first, last}) => type !== "gap" && view.lines.slice(first, last).some(({change}) => change.kind !== PLAIN);
  for (let at = view.cursor + direction; at >= 0 && at < view.rows.length; at += direction)
    if (marked(view.rows[at])) return moveTo(at);
}

/** Show the line that ``found`` says, whatever is folded or left out. */
function reveal(found) {
  const index = view.lines.findIndex(found);
  if (index < 0) return;
  let at = view.rows.findIndex(({type, first}) => type === "line" && first === index);
  if (at < 0) {
    state.revealed.add(index);
    const visit = (group) => {
      if (group.first > index || index >= group.last) return;
      state.folded.delete(group.path);
      for (const child of group.children) if (typeof child === "object") visit(child);
    };
    visit(view.tree);
    layout();
    at = view.rows.findIndex(({type, first}) => type === "line" && first === index);
  }
  scroller.scrollTop = at * ROW - scroller.clientHeight / 2;
  moveTo(at);
}

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
  const {stage} = state, count = data.stages.length - 1, last = stage === count;
  get("step-name").textContent = stage === 0 ? `all ${count} steps` : `${stage} of ${count}: ${data.stages[stage].name}`;
  get("step").setAttribute("aria-valuetext", get("step-name").textContent);
  get("earlier").disabled = stage === 0;
  get("later").disabled = last;
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
  const side = ([label]) => el("div", {class: "side", role: "columnheader"}, el("span", {class: "wires"}),
    el("span", {class: "name"}, label), el("span", {class: "op"}, "op"), el("span", {class: "macs"}, "MACs"),
    el("span", {class: "scale"}, "scale"));
  const sides = data.sides.map(side);
  get("columns").append(...withMark(sides, ""));
  get("columns").querySelector(".mark").setAttribute("role", "columnheader");
  get("columns").querySelector(".mark").setAttribute("aria-label", "mark");
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
get("step").max = data.stages.length - 1;
get("step").value = 0;
showColumns();
showStep();
prepareStage();
layout(null);
showTheme();
scroller.focus({preventScroll: true});
