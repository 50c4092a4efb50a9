// The panel that opens beside the rows: all that is known of one layer.

/** Fill ``panel`` with the change on a line. ``go(node, side)`` shows another node, ``toStage(index)`` another step. */
function fillDetails(panel, view, line, {go, toStage, close}) {
  const {change} = line, kind = view.kinds[change.kind].name;
  const main = change.after ?? change.before[0];
  const closer = el("button", {type: "button", class: "close", "aria-label": "Close (Esc)", title: "Close (Esc)"}, "✕");
  closer.addEventListener("click", close);
  const sides = view.sides.map(([label, side]) => ({label, side, nodes: side === 0 ? change.before : [change.after].filter(Boolean)}));
  panel.replaceChildren(
    el("div", {class: "details-head"}, el("span", {class: `badge ${kind}`}, `${view.kinds[change.kind].mark} ${kind}`.trim()), closer),
    el("h2", {}, main.path || main.name),
    change.what.length ? el("p", {class: "what"}, `changed: ${change.what.join(", ")}`) : "",
    ...reasonElements(view, "Why", change.why, toStage),
    ...reasonElements(view, "Left alone by", change.declined, toStage),
    propertiesElement(view, sides, go),
  );
}

function propertiesElement(view, sides, go) {
  const shape = (node) => node.shape === null ? "unknown" : `(${node.shape.join(", ")})`;
  const scale = (node, side) => {
    const value = view.scaleOf(node, side);
    return value === null || value === undefined ? null : `${scaleText(value)}${node.scale === null ? ", as trained" : ""}`;
  };
  const properties = [
    ["node", (node) => node.name],
    ["op", (node) => node.op],
    ["layer", (node) => node.detail || null],
    ["module", (node) => node.path || null],
    ["shape", shape],
    ["MACs", (node) => exact(node.macs)],
    ["parameters", (node) => exact(node.params)],
    ["scale", scale],
    ["reads", (node, side) => linksElement(view, node.inputs, side, go)],
    ["read by", (node, side) => linksElement(view, view.readers[side].get(node.name) ?? [], side, go)],
  ];
  const head = el("tr", {}, el("td"), ...sides.map(({label}) => el("th", {scope: "col"}, label)));
  const rows = properties.map(([label, value]) => {
    const cells = sides.map(({side, nodes}) => nodes.map((node) => value(node, side)));
    if (cells.flat().every((cell) => cell === null)) return "";
    const texts = cells.map((cell) => cell.map((one) => one?.textContent ?? one).join("\n"));
    const differs = cells.length === 2 && cells.every(({length}) => length === 1) && texts[0] !== texts[1];
    return el("tr", {class: differs ? "differs" : null}, el("th", {scope: "row"}, label),
      ...cells.map((cell) => el("td", {}, ...cell.map((one) => el("div", {}, one ?? "–")))));
  });
  return el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows));
}

function linksElement(view, names, side, go) {
  if (!names.length) return null;
  const list = el("span", {class: "links"});
  for (const name of new Set(names)) {
    const link = el("button", {type: "button", class: "link"}, name);
    link.addEventListener("click", () => go(name, side));
    list.append(link, " ");
  }
  return list;
}

function reasonElements(view, title, reasons, toStage) {
  if (!reasons.length) return [];
  const items = reasons.map(({pass, rule, step}) => {
    const label = pass || "a pass";
    if (step === null || step + 1 >= view.stageCount || view.stage === step) return el("li", {}, el("code", {}, label), ` ${rule}`);
    const link = el("button", {type: "button", class: "link", title: `Show step ${step + 1}`}, label);
    link.addEventListener("click", () => toStage(step));
    return el("li", {}, link, ` ${rule}`);
  });
  return [el("h3", {}, title), el("ol", {class: "why"}, ...items)];
}
