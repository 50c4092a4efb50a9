// From the data to rows: pure functions that know nothing of the document.

const PLAIN = 0; // the kind of what nothing happened to; data.kinds[0]
const MAX_LANES = 10; // of wires beside a column; those beyond share the last

/** Turn the compact arrays of the page's data into objects. */
function decode(data) {
  const nodes = data.nodes.map(([name, op, path, inputs, shape, macs, params, scale, detail]) => (
    {name, op, path, inputs, shape, macs, params, scale, detail}));
  const reasons = data.reasons.map(([pass, rule, step]) => ({pass, rule, step}));
  const stages = data.stages.map((stage) => ({...stage, changes: stage.changes.map(
    ([kind, before, after, what = [], why = [], declined = []]) => ({kind, before: before.map((index) => nodes[index]),
      after: after < 0 ? null : nodes[after], what, why: why.map((index) => reasons[index]),
      declined: declined.map((index) => reasons[index])}))}));
  return {...data, stages};
}

/** One line a node of before; what was fused stands on the line of the node that it looks most like. */
function linesOf(stage) {
  const lines = [];
  for (const change of stage.changes) {
    const {before, after} = change;
    const main = Math.max(0, before.findIndex((node) => node.path === after?.path && node.op === after.op));
    (before.length ? before : [null]).forEach((node, index) => lines.push({
      change, nodes: [node, index === main ? after : null], into: index === main ? null : after,
      path: (node ?? after).path}));
  }
  return lines;
}

/** The modules that the lines lie in, as a tree; a child is a group or the number of a line. */
function treeOf(lines, kinds) {
  const containers = new Set();
  for (const {path} of lines)
    for (let dot = path.lastIndexOf("."); dot > 0; dot = path.lastIndexOf(".", dot - 1)) containers.add(path.slice(0, dot));
  const group = (path, first) => ({path, first, last: first, children: []});
  const root = group("", 0);
  let stack = [root];
  lines.forEach((line, index) => {
    const {path} = line;
    const home = containers.has(path) ? path : path.slice(0, Math.max(0, path.lastIndexOf(".")));
    line.home = home;
    const atoms = home ? home.split(".") : [];
    let depth = 0;
    while (depth < atoms.length && depth + 1 < stack.length
           && stack[depth + 1].path === atoms.slice(0, depth + 1).join(".")) depth += 1;
    stack = stack.slice(0, depth + 1);
    for (; depth < atoms.length; depth += 1) {
      const child = group(atoms.slice(0, depth + 1).join("."), index);
      stack.at(-1).children.push(child);
      stack.push(child);
    }
    stack.at(-1).children.push(index);
    for (const open of stack) open.last = index + 1;
  });
  const finish = (one, parent, depth) => {
    while (one !== root && one.children.length === 1 && typeof one.children[0] === "object")
      Object.assign(one, one.children[0]); // a module that holds one module only is one step with it
    one.label = parent.path ? one.path.slice(parent.path.length + 1) : one.path;
    one.depth = depth;
    one.counts = kinds.map(() => 0);
    one.macs = [0, 0];
    one.params = [0, 0];
    one.holds = [0, 0]; // nodes
    for (let index = one.first; index < one.last; index += 1) {
      const {change, nodes, into} = lines[index];
      if (into === null) one.counts[change.kind] += 1;
      nodes.forEach((node, side) => {
        one.macs[side] += node?.macs ?? 0;
        one.params[side] += node?.params ?? 0;
        one.holds[side] += node ? 1 : 0;
      });
    }
    for (const child of one.children) if (typeof child === "object") finish(child, one, depth + 1);
  };
  finish(root, root, -1);
  return root;
}

/** What is shown, top to bottom: headers of groups, lines, and gaps that stand for lines not shown.
 *  folded: paths of groups; shows(index): whether a line is asked for. Each row covers lines first to last. */
function rowsOf(tree, lines, folded, shows) {
  const rows = [];
  const shown = new Int32Array(lines.length + 1);
  lines.forEach((_, index) => { shown[index + 1] = shown[index] + (shows(index) ? 1 : 0); });
  let gap = null;
  const hide = (first, last) => {
    if (gap) gap.last = last;
    else gap = {type: "gap", key: `gap ${first}`, first, last, depth: 0};
  };
  const show = (row) => {
    if (gap) rows.push({...gap, depth: row.depth});
    gap = null;
    rows.push(row);
  };
  const visit = (group) => {
    for (const child of group.children) {
      if (typeof child === "number") {
        if (shown[child + 1] === shown[child]) hide(child, child + 1);
        else show({type: "line", key: `line ${child}`, first: child, last: child + 1, depth: group.depth + 1});
      } else if (shown[child.last] === shown[child.first]) hide(child.first, child.last);
      else {
        const closed = folded.has(child.path);
        show({type: "group", key: `group ${child.first} ${child.path}`, group: child, closed, first: child.first,
          last: closed ? child.last : child.first, depth: child.depth});
        if (!closed) visit(child);
      }
    }
  };
  visit(tree);
  if (gap) rows.push(gap);
  return rows;
}

const VALUES = { // what a column is sorted by
  name: ({path, name}) => path || name, op: ({op, detail}) => `${op} ${detail}`, macs: ({macs}) => macs, params: ({params}) => params,
};
const byText = new Intl.Collator("en", {numeric: true}).compare; // conv2 before conv10

/** The lines that are asked for, in the order of a column of one side; those without a value there come last. */
function sortedRows(lines, shows, {side, column, order}, scaleOf) {
  const value = column === "scale" ? (node) => scaleOf(node, side) : VALUES[column];
  const sign = order === "descending" ? -1 : 1;
  const compare = (a, b) => typeof a === "string" ? byText(a, b) : a - b;
  const found = lines.map(({nodes}, index) => ({index, value: nodes[side] ? value(nodes[side]) : null})).filter(({index}) => shows(index));
  found.sort((a, b) => (a.value === null) - (b.value === null)
    || (a.value === null ? 0 : sign * compare(a.value, b.value)) || a.index - b.index);
  return found.map(({index}) => ({type: "line", key: `line ${index}`, first: index, last: index + 1, depth: 0}));
}

/** No wires: what stands beside rows that are not in the order of the graph. */
const noWires = (rows) => ({pieces: rows.map(() => []), lanes: 0});

/** The wires beside one column: for each row its pieces, and how many lanes there are.
 *  What reads the node right above it is joined by the spine, lane 0; all other reads of one node share one lane. */
function wiresOf(rows, lines, side) {
  const rowOf = new Map();
  const above = new Int32Array(rows.length).fill(-1); // the nearest earlier row that holds a node
  const holds = new Uint8Array(rows.length);
  rows.forEach(({first, last}, at) => {
    if (at > 0) above[at] = holds[at - 1] ? at - 1 : above[at - 1];
    for (let index = first; index < last; index += 1) {
      const node = lines[index].nodes[side];
      if (node) { rowOf.set(node.name, at); holds[at] = 1; }
    }
  });
  const pieces = rows.map(() => []);
  const spine = new Set();
  const readers = new Map(); // row of a source -> the rows that read it over a distance
  rows.forEach(({first, last}, at) => {
    for (let index = first; index < last; index += 1)
      for (const name of lines[index].nodes[side]?.inputs ?? []) {
        const from = rowOf.get(name);
        if (from === undefined || from === at) continue;
        if (from === above[at]) spine.add(at);
        else readers.set(from, (readers.get(from) ?? new Set()).add(at));
      }
  });
  for (const to of spine)
    for (let at = above[to]; at <= to; at += 1)
      pieces[at].push({lane: 0, up: at > above[to], down: at < to, arm: false, from: above[to], to: [to]});
  const spans = [...readers].map(([from, set]) => {
    const to = [...set];
    return {from, to, top: Math.min(from, ...to), bottom: Math.max(from, ...to)};
  }).sort((a, b) => (a.bottom - a.top) - (b.bottom - b.top));
  const lanes = [];
  for (const {from, to, top, bottom} of spans) {
    let lane = lanes.findIndex((taken) => taken.every((other) => other.bottom < top || other.top > bottom));
    if (lane < 0) lane = lanes.length < MAX_LANES ? lanes.push([]) - 1 : MAX_LANES - 1;
    lanes[lane].push({top, bottom});
    const ends = new Set([from, ...to]);
    for (let at = top; at <= bottom; at += 1)
      pieces[at].push({lane: lane + 1, up: at > top, down: at < bottom, arm: ends.has(at), from, to});
  }
  return {pieces, lanes: lanes.length, holds};
}

/** 2516608 -> "2.52M"; exact below 10,000. */
function short(number) {
  if (number < 10000) return number.toLocaleString("en");
  for (const [unit, size] of [["k", 1e3], ["M", 1e6], ["G", 1e9], ["T", 1e12]]) {
    const value = number / size;
    if (value < 999.5 || unit === "T") return value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0) + unit;
  }
}

const exact = (number) => number.toLocaleString("en");
const scaleText = (scale) => scale === 0 ? "0" : Math.abs(scale) < 0.001 ? scale.toExponential(0) : String(Number(scale.toFixed(3)));

const FORMS = { // how a measured number is written
  share: (number) => `${(number * 100).toFixed(2)}%`,
  ms: (number) => `${number.toFixed(2)} ms`,
  bytes: (number) => `${short(number)}B`.replace(/(\D?B)$/, " $1"),
};
/** How much a measured number changed: shares in points, all else in percent. */
function changeText(form, before, after) {
  if (FORMS[form](before) === FORMS[form](after)) return "unchanged";
  const change = form === "share" ? (after - before) * 100 : (after / before - 1) * 100;
  const digits = form === "share" ? 2 : 1;
  return `${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(digits)}${form === "share" ? " points" : "%"}`;
}
