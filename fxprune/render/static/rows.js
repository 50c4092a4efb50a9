// One row as elements: the wires, the cells of each side, the mark between them.

const ROW = 26; // pixels; page.css has the same
const LANE = 8;
const SPINE = 11; // from the spine to the right end of the wires

/** Return an element; text and attributes are set as such, so nothing in them is ever read as HTML. */
function el(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {}))
    if (value !== undefined && value !== null) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const wiresWidth = (wires) => SPINE * 2 + wires.lanes * LANE;

const DOTS = { // one shape a kind, so that colour is never needed to tell them apart
  circle: (x, y) => `M${x - 2.5} ${y}a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0 -5 0`,
  removed: (x, y) => `M${x - 3.5} ${y - 3.5}l7 7m0 -7l-7 7`,
  changed: (x, y) => `M${x} ${y - 4.5}l4.5 4.5l-4.5 4.5l-4.5 -4.5z`,
  fused: (x, y) => `M${x - 4} ${y - 4}h8v8h-8z`,
  added: (x, y) => `M${x} ${y - 4.5}v9m-4.5 -4.5h9`,
  group: (x, y) => `M${x - 5} ${y - 3}h10v6h-10z`,
};
Object.assign(DOTS, {eligible: DOTS.changed, kept: DOTS.removed, opaque: DOTS.fused});

/** The part of the wires that crosses row ``at``; those that end at row ``cursor`` are lit. */
function wiresElement(wires, at, cursor, shape) {
  const width = wiresWidth(wires), spine = width - SPINE, middle = ROW / 2;
  const plain = [], lit = [];
  for (const {lane, up, down, arm, from, to} of wires.pieces[at]) {
    const x = spine - lane * LANE;
    const isSource = from === cursor;
    const onTheWay = to.includes(cursor) && at >= Math.min(from, cursor) && at <= Math.max(from, cursor);
    if (lane === 0) {
      const full = up && down ? [0, ROW] : up ? [0, middle] : [middle, ROW];
      (isSource || onTheWay ? lit : plain).push(`M${x} ${full[0]}V${full[1]}`);
      continue;
    }
    const armTo = isSource || (onTheWay && (at === from || at === cursor)) ? lit : plain;
    const through = isSource || (onTheWay && at !== Math.max(from, cursor)) ? lit : plain;
    if (up && down) through.push(`M${x} 0V${ROW}`);
    if (arm && up) armTo.push(`M${x} 0V${middle - 5}Q${x} ${middle} ${x + 5} ${middle}H${spine}`);
    else if (arm) armTo.push(`M${spine} ${middle}H${x + 5}Q${x} ${middle} ${x} ${middle + 5}V${ROW}`);
  }
  const picture = svg("svg", {class: "wires", width, height: ROW, "aria-hidden": "true"});
  for (const [name, paths] of [["wire", plain], ["wire lit", lit]])
    if (paths.length) picture.append(svg("path", {class: name, d: paths.join("")}));
  if (shape) picture.append(svg("path", {class: `dot dot-${shape}`, d: (DOTS[shape] ?? DOTS.circle)(spine, middle)}));
  return picture;
}

function scaleElement(scale) {
  if (scale === null || scale === undefined) return el("span", {class: "scale", role: "gridcell"});
  const fill = el("i");
  fill.style.width = `${Math.min(1, Math.abs(scale)) * 100}%`;
  return el("span", {class: "scale", role: "gridcell", title: `effective scale ${scale}`}, el("b", {}, fill), scaleText(scale));
}

/** What a node or a module costs; nothing is written for none. */
const countElement = (kind, count, title) => el("span", {class: kind, role: "gridcell", title}, count ? short(count) : "");

/** One side of a line. ``view`` is what page.js laid out. */
function sideElement(view, row, at, side) {
  const line = view.lines[row.first], node = line.nodes[side], {change, into} = line;
  const kind = view.kinds[change.kind].name, home = view.sorted ? "" : line.home;
  const wires = wiresElement(view.wires[side], at, view.cursor, node && kind);
  if (!node) {
    const gone = into && side === 1 ? el("span", {class: "into"}, `↖ part of ${localName(into, home)}`) : null;
    if (gone) gone.style.paddingLeft = `${row.depth * 14}px`;
    return el("div", {class: gone ? "side" : "side none", role: "gridcell", "aria-colspan": 5}, wires, gone);
  }
  const name = el("span", {class: "name", role: "gridcell", title: node.path || node.name}, localName(node, home));
  name.style.paddingLeft = `${row.depth * 14}px`;
  const op = el("span", {class: "op", role: "gridcell", title: `${node.op} ${node.detail}`}, node.op, " ", el("small", {}, node.detail));
  if (side === 1) for (const what of change.what) op.append(" ", el("em", {}, what));
  if (view.sides.length === 1 && change.kind !== PLAIN && change.why.length) op.append(" ", el("span", {class: "reason"}, change.why[0].rule));
  return el("div", {class: "side", role: "none"}, wires, name, op,
    countElement("macs", node.macs, `${exact(node.macs)} MACs`), countElement("params", node.params, `${exact(node.params)} parameters`),
    scaleElement(view.scaleOf(node, side)));
}

/** The path of a node within its module; its own name where it is called by the module's forward. */
function localName(node, home) {
  if (!node.path || node.path === home) return node.name;
  return home && node.path.startsWith(`${home}.`) ? node.path.slice(home.length + 1) : node.path;
}

function groupSideElement(view, row, at, side) {
  const {group, closed} = row;
  const wires = wiresElement(view.wires[side], at, view.cursor, closed && group.holds[side] ? "group" : null);
  if (!group.holds[side]) return el("div", {class: "side none", role: "gridcell", "aria-colspan": 5}, wires);
  const name = el("span", {class: "name", role: "gridcell", title: group.path}, el("span", {class: "twist"}, closed ? "▸" : "▾"), group.label);
  name.style.paddingLeft = `${row.depth * 14}px`;
  const counts = el("span", {class: "counts"});
  if (side === view.sides[0][1])
    group.counts.forEach((count, kind) => {
      const {name: kindName, mark} = view.kinds[kind];
      if (count && kind !== PLAIN)
        counts.append(el("span", {class: `badge ${kindName}`, title: `${count} ${kindName}`}, `${mark}${count}`));
    });
  const nodes = el("small", {}, `${exact(group.holds[side])} ${group.holds[side] === 1 ? "node" : "nodes"}`);
  return el("div", {class: "side", role: "none"}, wires, name, el("span", {class: "op", role: "gridcell"}, counts, nodes),
    countElement("macs", group.macs[side]), countElement("params", group.params[side]), scaleElement(null));
}

/** The element of row ``at`` of the view. */
function rowElement(view, at) {
  const row = view.rows[at];
  const attributes = {role: "row", id: `row-${at}`, "aria-rowindex": at + 2, "aria-level": row.depth + 1,
    "aria-selected": at === view.cursor, "data-at": at};
  if (row.type === "gap") {
    const count = row.last - row.first;
    const sides = view.sides.map(([, side], index) => el("div", {class: "side", role: "gridcell", "aria-colspan": 5},
      wiresElement(view.wires[side], at, view.cursor, null),
      index === 0 ? el("span", {class: "gap-text"}, `⋯ ${count} ${view.gapWord}`) : null));
    return el("div", {...attributes, class: "row gap"}, ...withMark(sides, ""));
  }
  if (row.type === "group") {
    const sides = view.sides.map(([, side]) => groupSideElement(view, row, at, side));
    const kind = view.sides.length === 1 ? null : row.group.holds[1] === 0 ? "removed" : row.group.holds[0] === 0 ? "added" : null;
    const mark = view.kinds.find(({name}) => name === kind)?.mark ?? "";
    return el("div", {...attributes, class: `row group ${kind ?? ""}`, "aria-expanded": !row.closed,
      "aria-label": `module ${row.group.path}`}, ...withMark(sides, mark));
  }
  const {change} = view.lines[row.first];
  const {name, mark} = view.kinds[change.kind];
  const sides = view.sides.map(([, side]) => sideElement(view, row, at, side));
  return el("div", {...attributes, class: `row line ${name}`, "aria-label": spoken(view, row)}, ...withMark(sides, mark));
}

function withMark(sides, mark) {
  const cell = el("div", {class: "mark", role: "gridcell"}, mark);
  return sides.length === 2 ? [sides[0], cell, sides[1]] : [cell, sides[0]];
}

function spoken(view, row) {
  const {change, nodes, path} = view.lines[row.first];
  const {op, name} = nodes[0] ?? nodes[1];
  return `${view.kinds[change.kind].name}: ${path || name}, ${op}`;
}
