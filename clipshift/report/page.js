"use strict";
const byId = (id) => document.getElementById(id);
const parsed = (id) => (byId(id) ? JSON.parse(byId(id).textContent) : null);
const element = (tag, text, attributes) => {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  return node;
};

// --- charts: drawn when they come near the window, again when the colours of the page change ---
const { charts, configs } = parsed("charts");
const dark = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map();
let printing = false;
let severity = byId("severity") ? byId("severity").value : null;

async function draw(container, name) {
  const spec = structuredClone(charts[name]);
  for (const param of spec.params || []) if (param.name === "severity" && severity) param.value = severity;
  const config = dark.matches && !printing ? configs.dark : configs.light;
  // ast: Vega interprets its expressions, for the page's policy forbids it to compile them.
  const embedded = await vegaEmbed(container, spec, { actions: false, ast: true, renderer: "svg", config, logLevel: 1 });
  // The container says in words what the chart shows; its marks would each be read as an image.
  container.querySelector("svg").setAttribute("aria-hidden", "true");
  drawn.set(container, embedded);
  signs();
}

const containers = [...document.querySelectorAll(".vega[data-chart]")];
const drawAll = () => Promise.all(containers.map((container) => draw(container, container.dataset.chart)));
const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    draw(target, target.dataset.chart);
  }
}, { rootMargin: "800px" });
containers.forEach((container) => near.observe(container));
dark.addEventListener("change", () => [...drawn.keys()].forEach((container) => container.dataset.chart && draw(container, container.dataset.chart)));
addEventListener("beforeprint", () => { printing = true; drawAll(); });
addEventListener("afterprint", () => { printing = false; drawAll(); });

for (const button of document.querySelectorAll("[data-enlarge]")) {
  button.addEventListener("click", () => {
    byId("enlarged").showModal();
    const large = byId("enlarged").querySelector(".vega");
    large.setAttribute("aria-label", document.querySelector(`[data-chart="${button.dataset.enlarge}"]`).getAttribute("aria-label"));
    draw(large, button.dataset.enlarge);
  });
}

// --- severity: one choice for the whole page ---
function showSeverity() {
  for (const node of document.querySelectorAll("[data-severity]")) node.hidden = node.dataset.severity !== severity;
  for (const link of document.querySelectorAll("a[data-several]")) link.href = `${link.dataset.file}@${severity}.${link.dataset.kind}`;
  for (const { view } of drawn.values()) {
    try { view.signal("severity", severity).runAsync(); } catch (error) { /* a chart of all severities */ }
  }
}
if (severity) {
  byId("severity").addEventListener("change", () => {
    severity = byId("severity").value;
    showSeverity();
    if (photos) listPhotos();
  });
}

// --- tables: sorted by their heads ---
for (const table of document.querySelectorAll(".table table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const sign = down ? -1 : 1;
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === undefined && y === undefined) return sign * a.cells[column].textContent.localeCompare(b.cells[column].textContent);
      if (x === undefined || y === undefined) return x === undefined ? 1 : -1; // no value: last
      return sign * (x - y);
    });
    table.tBodies[0].append(...rows);
  }));
}

// --- boxes that scroll say so ---
function signs() {
  for (const box of document.querySelectorAll(".scroll")) {
    box.classList.toggle("more-left", box.scrollLeft > 2);
    box.classList.toggle("more-right", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  }
}
for (const box of document.querySelectorAll("main .scroll")) {
  box.addEventListener("scroll", signs, { passive: true });
  box.after(element("p", "scroll sideways for more →", { class: "hint", "aria-hidden": "true" }));
}
addEventListener("resize", signs);

// --- the table of contents: where one is ---
const links = [...document.querySelectorAll("nav a")];
const wide = matchMedia("(min-width: 64.01rem)");
const contents = document.querySelector("nav details");
const fold = () => { contents.open = wide.matches; };
fold();
wide.addEventListener("change", fold);
links.forEach((link) => link.addEventListener("click", () => fold()));
addEventListener("scroll", () => {
  const seen = links.filter((link) => byId(link.hash.slice(1)).getBoundingClientRect().top < innerHeight / 3);
  links.forEach((link) => link.removeAttribute("aria-current"));
  (seen.at(-1) || links[0]).setAttribute("aria-current", "true");
}, { passive: true });

// --- photos ---
const photos = parsed("photo-data");
const PAGE = 24;
let listed = [], shownCount = PAGE, open = -1;

// A photo may be called "constructor", as an object's own fields are not.
const shownOf = (photo) => (Object.hasOwn(photos.shown, photo.id) ? photos.shown[photo.id] : undefined);
function variantsNow() { // indices of the variants at the chosen severity
  return photos.variants.map((_, index) => index).filter((index) => !severity || photos.variants[index][1] === severity);
}
function variantName(index) {
  const [name, at] = photos.variants[index];
  return severity ? `${name} (${at})` : name;
}
const number = (value) => (value === null || value === undefined ? "–" : Math.abs(value) < 0.0005 ? "0.000" : value.toFixed(3));
const minus = (after, before) => (after === null || before === null ? null : after - before);
// Of what a photo's number is: a model, by its index, or the change from the first to the second.
const ofWhat = () => (photos.models.length > 1 ? byId("photo-of").value : "0");
function oneShift(photo, index) {
  return ofWhat() === "change" ? minus(photo.shifts[1][index], photo.shifts[0][index]) : photo.shifts[ofWhat()][index];
}
function shiftOf(photo, index) {
  if (index !== null) return oneShift(photo, index);
  const shifts = variantsNow().map((variant) => oneShift(photo, variant)).filter((value) => value !== null);
  return shifts.length ? shifts.reduce((sum, value) => sum + value, 0) / shifts.length : null;
}
function chosenVariant() {
  const name = byId("photo-under").value;
  return name ? variantsNow().find((index) => photos.variants[index][0] === name) : null;
}

function listPhotos() {
  const find = byId("photo-find").value.toLowerCase();
  const label = byId("photo-class").value;
  const order = byId("photo-order").value;
  const variant = chosenVariant();
  listed = photos.photos.filter((photo) =>
    (!find || photo.id.toLowerCase().includes(find) || photo.label.toLowerCase().includes(find)) &&
    (!label || photo.label === label) &&
    (!byId("photo-pictured").checked || shownOf(photo)?.pictures.length));
  const key = new Map(listed.map((photo) => [photo, shiftOf(photo, variant)]));
  if (order === "name") listed.sort((a, b) => (a.id < b.id ? -1 : 1));
  else listed.sort((a, b) => (order === "most" ? -1 : 1) * ((key.get(a) ?? -9) - (key.get(b) ?? -9)));
  const most = Math.max(...photos.photos.map((photo) => Math.abs(shiftOf(photo, variant) ?? 0)), 1e-9);
  const cards = listed.slice(0, shownCount).map((photo, position) => {
    const value = key.get(photo);
    const card = element("button", null, { type: "button", class: "card" });
    const picture = element("span", null, { class: "picture" });
    const pictures = shownOf(photo)?.pictures || [];
    if (pictures.length) picture.append(element("img", null, { src: pictures[variant === null ? 0 : variant + 1], alt: "" }));
    else picture.textContent = "no picture kept";
    const meter = element("div", null, { class: "meter" });
    meter.append(element("i", null, { style: `width:${100 * Math.abs(value ?? 0) / most}%` }));
    card.append(picture, element("b", number(value)), meter, element("span", photo.label || photo.id), element("span", photo.label ? photo.id : ""));
    card.title = photo.id;
    card.addEventListener("click", () => showPhoto(position));
    const item = element("li");
    item.append(card);
    return item;
  });
  byId("photo-cards").replaceChildren(...cards);
  const what = photos.measure === "relative_shift" ? "relative shift" : "1 − cosine";
  byId("photo-count").textContent = `${listed.length} of ${photos.photos.length} photos. Numbers: ${what}, ` +
    (ofWhat() === "change" ? "B minus A, " : photos.models.length > 1 ? `${photos.models[ofWhat()]}, ` : "") + (variant === null ? "mean over the augmentations" : `under ${variantName(variant)}`) + ".";
  byId("photo-more").hidden = listed.length <= shownCount;
}

const between = (low, high, share) => low + share * (high - low);
function heat(share) { // as clipshift.report.charts.gaze draws it
  const colors = photos.heat.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const at = Math.min(share, 1) * (colors.length - 1), low = Math.min(Math.floor(at), colors.length - 2);
  const [least, most] = photos.opacity, alpha = 255 * between(least, most, Math.min(share, 1)) / most;
  return [...colors[low].map((value, channel) => between(value, colors[low + 1][channel], at - low)), alpha];
}
function gazeCanvas([most, bytes], [rows, columns], scale) {
  const small = element("canvas", null, { width: columns, height: rows });
  const pixels = small.getContext("2d").createImageData(columns, rows);
  [...atob(bytes)].forEach((byte, index) => {
    pixels.data.set(heat(byte.charCodeAt(0) / 255 * most / scale), 4 * index);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const canvas = element("canvas", null, { width: 224, height: 224, class: "gaze" });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, 224, 224);
  return canvas;
}
function view(title, source, map, shape, scale) {
  const figure = element("figure"), stack = element("div", null, { class: "stack" });
  stack.append(element("img", null, { src: source, alt: title }));
  if (map) stack.append(gazeCanvas(map, shape, scale));
  figure.append(stack, element("figcaption", title));
  return figure;
}
function fade() {
  const opacity = byId("gaze-opacity").value / 100;
  for (const canvas of document.querySelectorAll("canvas.gaze")) {
    canvas.style.opacity = opacity;
    canvas.previousSibling.style.filter = `grayscale(${Math.min(1, 2 * opacity)})`;
  }
}
function rowsOf(head, rows) {
  const table = element("table"), body = element("tbody");
  const top = element("tr");
  head.forEach((cell) => top.append(element("th", cell, { scope: "col" })));
  const thead = element("thead");
  thead.append(top);
  for (const [name, ...values] of rows) {
    const row = element("tr");
    row.append(element("th", name, { scope: "row" }), ...values.map((value) => element("td", value)));
    body.append(row);
  }
  table.append(thead, body);
  return table;
}

function showPhoto(position) {
  open = (position + listed.length) % listed.length;
  const photo = listed[open], shown = shownOf(photo);
  byId("photo-name").textContent = photo.id;
  const parts = { most: "one of those that moved most", least: "one of those that moved least", typical: "a typical one" };
  byId("photo-about").textContent = [photo.label && `class: ${photo.label}`, shown && parts[shown.part]].filter(Boolean).join("; ");
  const select = byId("photo-variant");
  const before = select.value;
  select.replaceChildren(...photos.variants.map((_, index) => element("option", variantName(index), { value: index })));
  const worst = variantsNow().reduce((best, index) => (Math.abs(oneShift(photo, index) ?? 0) > Math.abs(oneShift(photo, best) ?? 0) ? index : best));
  select.value = byId("photo-dialog").open && before ? before : chosenVariant() ?? worst;
  showVariant();
  if (!byId("photo-dialog").open) byId("photo-dialog").showModal();
}
function showVariant() {
  const photo = listed[open], shown = shownOf(photo), index = Number(byId("photo-variant").value);
  const pictures = shown?.pictures || [], models = shown?.models || [], several = photos.models.length > 1;
  const gazes = models.map((model) => model.gaze).filter(Boolean);
  const greatest = (gaze) => Math.max(...[gaze.maps[0], gaze.maps[index + 1], gaze.back[index]].filter(Boolean).map((map) => map[0]), 1e-9);
  const alike = new Set(photos.kinds).size === 1; // gazes of different kinds have no common scale
  const scaleOf = (gaze) => (alike ? Math.max(...gazes.map(greatest)) : greatest(gaze));
  byId("photo-views").replaceChildren();
  if (pictures.length) {
    (gazes.length ? models : models.slice(0, 1)).forEach(({ gaze }, model) => {
      const of = several && gazes.length ? `${photos.models[model]}: ` : "", scale = gaze ? scaleOf(gaze) : 1;
      const row = element("div", null, { class: "views" });
      row.append(
        view(`${of}clean`, pictures[0], gaze?.maps[0], gaze?.shape, scale),
        view(`${of}${variantName(index)}`, pictures[index + 1], gaze?.maps[index + 1], gaze?.shape, scale));
      if (gaze?.back[index]) row.append(view(`${of}gaze on the view, moved back onto the photo`, pictures[0], gaze.back[index], gaze.shape, scale));
      byId("photo-views").append(row);
    });
  }
  const note = byId("gaze-note");
  const percent = (share) => `${(100 * share).toFixed(share < 0.01 ? 2 : 1)} %`;
  note.textContent = !pictures.length ? "This page holds no picture of this photo: only of some that moved most, some that moved least, and some between, where the photo could still be read as it was measured."
    : photos.kinds.every((kind) => !kind) ? `${photos.models.join(" and ")}: no gaze, as the image tower pools neither by one query of attention nor by averaging locations.`
    : !gazes.length ? "The gaze on this photo was not kept: measure with save.gaze=N, which keeps that on the first N photos."
    : (alike ? `Gaze on one scale, from none to ${percent(scaleOf(gazes[0]))} of it in one patch.` : `Gaze on a scale for each model, from none to ${gazes.map((gaze) => percent(scaleOf(gaze))).join(" and ")} of it in one patch.`)
      + (gazes.some((gaze) => gaze.back[index]) ? "" : " This augmentation moves no pixels.");
  if (gazes.length && pictures.length) {
    note.prepend(element("span", null, { class: "ramp", style: `background:linear-gradient(90deg,${photos.heat})` }), " ");
  }
  byId("gaze-label").hidden = !gazes.length || !pictures.length;

  const what = photos.measure === "relative_shift" ? "relative shift" : "1 − cosine";
  const names = several ? photos.models : [variantName(index)];
  byId("photo-numbers").replaceChildren(shown
    ? rowsOf(["measure", ...names], photos.measures.map(([name, short]) => [short, ...models.map((model) => number(model.values[name][index]))]))
    : rowsOf(["augmentation", ...(several ? photos.models : [what])], variantsNow().map((variant) => [photos.variants[variant][0], ...photo.shifts.map((own) => number(own[variant]))])));
  const nearest = models.flatMap(({ nearest }, model) => {
    if (!nearest) return [];
    const of = several ? `${photos.models[model]}: ` : "";
    const rows = (view) => view.map(([name, cosine]) => [name, number(cosine)]);
    return [rowsOf([`${of}nearest classes, clean`, "cosine"], rows(nearest[0])), rowsOf([`${of}under ${variantName(index)}`, "cosine"], rows(nearest[index + 1]))];
  });
  byId("photo-nearest").replaceChildren(...nearest);
  byId("photo-nearest").hidden = !nearest.length;
  fade();
}

if (photos) {
  const labels = [...new Set(photos.photos.map((photo) => photo.label).filter(Boolean))].sort();
  byId("photo-class").append(...labels.map((label) => element("option", label)));
  byId("photo-class").parentElement.hidden = labels.length < 2;
  byId("photo-under").append(...[...new Set(photos.variants.map(([name]) => name))].map((name) => element("option", name)));
  if (photos.models.length > 1) byId("photo-of").append(...[...photos.models, "B minus A"].map((name, index) => element("option", name, { value: index < 2 ? index : "change" })));
  byId("photo-of").parentElement.hidden = photos.models.length < 2;
  if (photos.models.length > 1) byId("photo-of").value = "change";
  for (const id of ["photo-of", "photo-find", "photo-class", "photo-under", "photo-order", "photo-pictured"]) {
    byId(id).addEventListener("input", () => { shownCount = PAGE; listPhotos(); });
  }
  byId("photo-controls").addEventListener("submit", (event) => event.preventDefault());
  byId("photo-more").addEventListener("click", () => { shownCount += 4 * PAGE; listPhotos(); });
  byId("photo-variant").addEventListener("change", showVariant);
  byId("gaze-opacity").addEventListener("input", fade);
  byId("photo-close").addEventListener("click", () => byId("photo-dialog").close());
  byId("photo-back").addEventListener("click", () => showPhoto(open - 1));
  byId("photo-next").addEventListener("click", () => showPhoto(open + 1));
  byId("photo-dialog").addEventListener("keydown", (event) => {
    if (event.target.matches("select, input")) return;
    if (event.key === "ArrowLeft") showPhoto(open - 1);
    if (event.key === "ArrowRight") showPhoto(open + 1);
  });
  if (!Object.values(photos.shown).some((shown) => shown.pictures.length)) byId("photo-pictured").checked = false;
  listPhotos();
}
if (severity) showSeverity();
signs();
