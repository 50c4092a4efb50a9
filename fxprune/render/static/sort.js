"use strict";
/* Tables whose heads are buttons are sorted by a column: the same one again sorts the other way. */
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const valueOf = (row, column) => {
    const text = row.cells[column].dataset.value ?? row.cells[column].textContent;
    return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compared = (a, b) => {
    if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
    return typeof a === "number" ? 1 : -1;  // what has no number is least
  };
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const first = body.rows.length && typeof valueOf(body.rows[0], column) === "number" ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...body.rows].sort((a, b) => sign * compared(valueOf(a, column), valueOf(b, column)));
    body.append(...rows);
    for (const one of heads) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
  }));
}
