// What is asked for (state), how it is laid out (view), and which rows are in sight.

const BEYOND = 12; // rows kept above and below those in sight
const get = (id) => document.getElementById(id);
const data = decode(JSON.parse(get("data").textContent));
const WHOLE = data.stages.length - 1; // the stage that is all steps at once: the last
const state = {stage: WHOLE, sort: null, query: "", focused: false, folded: new Set(), revealed: new Set()};
const scroller = get("scroller"), rowsElement = get("rows"), details = get("details"), overview = get("overview");
let view = null;
let drawn = new Map(); // row number -> its element

// ---- layout

function prepareStage() {
  const stage = data.stages[state.stage];
  const lines = linesOf(stage);
  const readers = [new Map(), new Map()];
  for (const line of lines) {
    const nodes = line.nodes.filter(Boolean);
    line.text = [data.kinds[line.change.kind].name, ...nodes.flatMap(({name, path}) => [name, path])].join("\n").toLowerCase();
    line.ops = nodes.map(({op}) => op.toLowerCase());
    line.nodes.forEach((node, side) => node?.inputs.forEach((name) => {
      const known = readers[side].get(name) ?? [];
      if (known.at(-1) !== node.name) readers[side].set(name, [...known, node.name]);
    }));
  }
  const scaleOf = (node, side) => node.scale ?? (state.stage === WHOLE && side === 0 ? data.trained[node.name] : null) ?? null;
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
    const {change, text, ops} = view.lines[index];
    if (state.revealed.has(index)) return true;
    // "conv2" means a layer of that name, not every Conv2d
    const matches = (word) => text.includes(word) || ops.some((op) => op === word || op.replace(/[123]d$/, "").includes(word));
    return (!state.focused || change.kind !== PLAIN) && words.every(matches);
  };
  const everything = !state.focused && !words.length;
  const asked = everything ? () => true : shows;
  view.sorted = state.sort !== null;
  view.rows = view.sorted ? sortedRows(view.lines, asked, state.sort, view.scaleOf)
    : rowsOf(view.tree, view.lines, words.length ? new Set() : state.folded, asked);
  view.gapWord = words.length ? "more" : data.focus.rest;
  view.wires = {};
  for (const [, side] of data.sides) view.wires[side] = view.sorted ? noWires(view.rows) : wiresOf(view.rows, view.lines, side);
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
  get("fold").disabled = view.sorted;
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
