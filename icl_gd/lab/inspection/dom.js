"use strict";
// Elements, numbers and tables.

const byId = (id) => document.getElementById(id);

function range(n) {
  return Array.from({ length: n }, (_, i) => i);
}

/** An element. Attributes that are false or undefined, and children that are null or undefined, are left out. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** An element of a drawing. */
function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A number as text, with significant digits. */
function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  const isSmall = value !== 0 && Math.abs(value) < 1e-3;
  const text = isSmall
    ? value.toExponential(digits - 1).replace(/\.?0+e/, "e")
    : String(Number(value.toPrecision(digits)));
  return text.replaceAll("-", "\u2212");
}

/** A cell of a table with text, right-aligned as numbers are. */
function numeric(text, kind = "") {
  return element("td", { class: `number ${kind}` }, text);
}

/** A row of a table: its heading, then cells. */
function tableRow(heading, cells, kind = false, headingKind = false) {
  return element("tr", { class: kind }, element("th", { scope: "row", class: headingKind }, heading), ...cells);
}

/** A table. `head` has the text and class of each column; `groups`, of the row above it, text, class and width. */
function table(head, rows, groups = null) {
  const above = (groups ?? []).map(([text, kind, colspan]) =>
    text ? element("th", { scope: "colgroup", colspan, class: `group ${kind}` }, text) : element("td", { colspan }),
  );
  const columns = head.map(([text, kind]) => element("th", { scope: "col", class: kind }, text));
  const headRows = [...(groups ? [element("tr", {}, ...above)] : []), element("tr", {}, ...columns)];
  return element("table", {}, element("thead", {}, ...headRows), element("tbody", {}, ...rows));
}

/** A table that scrolls inside its box, with the keyboard too. */
function scrolling(label, content, kind = "wide") {
  return element("div", { class: kind, tabindex: "0", role: "region", "aria-label": label }, content);
}

/** Gives a select its options, `[value, text]` each, and its value. Options that are unchanged keep their elements. */
function setOptions(select, options, value) {
  const isSame = select.options.length === options.length && options.every(([, text], i) => select[i].text === text);
  if (!isSame) select.replaceChildren(...options.map(([key, text]) => new Option(text, key)));
  select.value = String(value);
}
