"use strict";
const byId = (id) => document.getElementById(id);
const parsed = (id) => JSON.parse(byId(id).textContent);
function element(tag, text, attributes) {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  return node;
}

// --- charts: drawn one after another while the page is idle, again when its colours change ---
const { charts, configs, saved } = parsed("charts");
const dark = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map();
let printing = false;
let severity = byId("severity")?.value ?? null;

const severityOf = (spec) => spec.params?.find((param) => param.name === "severity");
function specOf(name) {
  const spec = structuredClone(charts[name]);
  if (severity && severityOf(spec)) severityOf(spec).value = severity;
  return spec;
}
// ast: Vega interprets its expressions, for the page's policy forbids it to compile them.
const embed = (container, spec, config) =>
  vegaEmbed(container, spec, { actions: false, ast: true, renderer: "svg", config, logLevel: 1 });

async function draw(container, name) {
  drawn.set(container, null);
  const config = dark.matches && !printing ? configs.dark : configs.light;
  drawn.set(container, await embed(container, specOf(name), config));
  // The container says in words what the chart shows; its marks would each be read as an image.
  container.querySelector("svg").setAttribute("aria-hidden", "true");
  markScrolling();
}

const containers = [...document.querySelectorAll(".vega[data-chart]")];
const inView = (container) => container.clientWidth > 0; // not in a folded section
const drawAll = () =>
  Promise.all(containers.filter(inView).map((one) => draw(one, one.dataset.chart)));
const idle = window.requestIdleCallback || ((work) => setTimeout(work, 20));
function drawRest() {
  const next = containers.find((container) => inView(container) && !drawn.has(container));
  if (next) draw(next, next.dataset.chart).then(() => idle(drawRest, { timeout: 100 }));
}
dark.addEventListener("change", drawAll);

// --- folded sections: opened when they are linked to, and for printing ---
const folds = [...document.querySelectorAll("details.fold")];
const targetOf = (hash) => byId(decodeURIComponent(hash.slice(1)));
function openFold(hash) {
  const fold = targetOf(hash)?.querySelector(":scope > .fold");
  if (fold) fold.open = true;
}
folds.forEach((fold) => fold.addEventListener("toggle", drawRest));
document.addEventListener("click", (event) => openFold(event.target.closest("a")?.hash ?? ""));
addEventListener("hashchange", () => openFold(location.hash));
let folded = [];
addEventListener("beforeprint", () => {
  printing = true;
  folded = folds.filter((fold) => !fold.open);
  for (const fold of folded) fold.open = true;
  drawAll();
});
addEventListener("afterprint", () => {
  printing = false;
  for (const fold of folded) fold.open = false;
  drawAll();
});

for (const button of document.querySelectorAll("[data-enlarge]")) {
  button.addEventListener("click", () => {
    byId("enlarged").showModal();
    const large = byId("enlarged").querySelector(".vega");
    const small = document.querySelector(`[data-chart="${button.dataset.enlarge}"]`);
    large.setAttribute("aria-label", small.getAttribute("aria-label"));
    draw(large, button.dataset.enlarge);
  });
}

// --- files: made of what the page holds, so that a copy of the page alone has them all ---
function save(name, content, type) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  element("a", null, { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

async function saveChart(name, kind) {
  const spec = specOf(name);
  if (spec.width === "container") spec.width = saved.width;
  const light = { ...configs.light, background: "white" };
  const { view } = await embed(element("div"), { ...spec, title: saved.title }, light);
  const title = severityOf(spec) ? `${name}@${severity}` : name;
  if (kind === "svg") save(`${title}.svg`, await view.toSVG(), "image/svg+xml");
  else (await view.toCanvas(saved.scale)).toBlob((png) => save(`${title}.png`, png, "image/png"));
}

// A column's numbers, and the ends of their intervals, which only the cells' texts have.
function csvColumns(head, cells) {
  const values = cells.map((cell) => cell.dataset.value ?? cell.textContent);
  const interval = (cell) => cell.dataset.value && cell.querySelector(".ci")?.textContent;
  const ends = cells.map((cell) => interval(cell)?.match(/[-+]?[\d.]+/g) ?? ["", ""]);
  if (!ends.some(([low]) => low)) return [[head, ...values]];
  const [low, high] = [0, 1].map((end) => ends.map((both) => both[end]));
  return [[head, ...values], [`${head} low`, ...low], [`${head} high`, ...high]];
}

function csvOf(table) {
  const rows = [...table.tBodies[0].rows], heads = [...table.tHead.rows[0].cells];
  const columns = heads.flatMap((head, column) =>
    csvColumns(head.textContent, rows.map((row) => row.cells[column])));
  const severities = rows.map((row) => row.dataset.severity ?? "");
  if (severities.some(Boolean)) columns.unshift(["severity", ...severities]);
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lineOf = (line) => columns.map((column) => quoted(column[line])).join(",");
  const lines = columns[0].map((_, line) => lineOf(line));
  return `${lines.join("\n")}\n`;
}

for (const button of document.querySelectorAll("[data-save]")) {
  const { save: kind, name } = button.dataset;
  button.addEventListener("click", () => {
    if (kind !== "csv") saveChart(name, kind);
    else save(`${name}.csv`, csvOf(button.closest(".table").querySelector("table")), "text/csv");
  });
}

// --- severity: one choice for the whole page ---
function showSeverity() {
  for (const node of document.querySelectorAll("[data-severity]")) {
    node.hidden = node.dataset.severity !== severity;
  }
  for (const embedded of drawn.values()) {
    if (!embedded || !severityOf(embedded.spec)) continue;
    embedded.view.signal("severity", severity).runAsync();
  }
}
byId("severity")?.addEventListener("change", () => {
  severity = byId("severity").value;
  showSeverity();
});

// --- figures to choose from ---
for (const select of document.querySelectorAll(".switch select")) {
  const show = () => {
    for (const { value } of select.options) byId(value).hidden = value !== select.value;
    drawRest();
  };
  select.addEventListener("change", show);
  show(); // a reloaded page keeps its choice
}

// --- links to other pages: only where this page lies beside them, as one that was mailed does not ---
for (const link of document.querySelectorAll("a[data-place]")) {
  if (decodeURIComponent(location.pathname).endsWith(link.dataset.place)) link.href = link.dataset.page;
}

// --- tables: sorted by their heads ---
function sortBy(table, head) {
  const heads = [...table.tHead.rows[0].cells], rows = [...table.tBodies[0].rows];
  const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
  const cellOf = (row) => row.cells[heads.indexOf(head)];
  const number = (row) => cellOf(row).dataset.value, text = (row) => cellOf(row).textContent;
  const numbers = rows.filter(number).sort((a, b) => sign * (number(a) - number(b)));
  const texts = rows.filter((row) => !number(row));
  texts.sort((a, b) => sign * text(a).localeCompare(text(b)));
  table.tBodies[0].append(...numbers, ...texts); // a row without a number is last, either way
}
for (const table of document.querySelectorAll(".table table")) {
  for (const head of table.tHead.rows[0].cells) {
    head.firstElementChild.addEventListener("click", () => sortBy(table, head));
  }
}

// --- tables: filtered by words, all of which a row must have ---
for (const input of document.querySelectorAll(".filter input")) {
  const rows = [...input.closest(".table").querySelector("table").tBodies[0].rows];
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.classList.toggle("unfound", !words.every((word) => text.includes(word)));
    }
    const shown = rows.filter((row) => row.offsetHeight).length;
    input.nextElementSibling.textContent = input.value.trim() ? `${shown} shown` : "";
    markScrolling();
  });
}

// --- boxes that scroll say so ---
function markScrolling() {
  for (const box of document.querySelectorAll(".scroll")) {
    box.classList.toggle("more-left", box.scrollLeft > 2);
    box.classList.toggle("more-right", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  }
}
for (const box of document.querySelectorAll("main .scroll")) {
  box.addEventListener("scroll", markScrolling, { passive: true });
  box.after(element("p", "scroll sideways for more →", { class: "hint", "aria-hidden": "true" }));
}
addEventListener("resize", markScrolling);

// --- the table of contents: where one is ---
const links = [...document.querySelectorAll("nav a")];
const wide = matchMedia("(min-width: 64.01rem)");
const foldContents = () => { document.querySelector("nav details").open = wide.matches; };
wide.addEventListener("change", foldContents);
links.forEach((link) => link.addEventListener("click", foldContents));
function markPlace() {
  const isSeen = (link) => targetOf(link.hash).getBoundingClientRect().top < innerHeight / 3;
  links.forEach((link) => link.removeAttribute("aria-current"));
  (links.filter(isSeen).at(-1) || links[0]).setAttribute("aria-current", "true");
}
addEventListener("scroll", markPlace, { passive: true });

foldContents();
openFold(location.hash);
if (severity) showSeverity();
markScrolling();
drawRest();
