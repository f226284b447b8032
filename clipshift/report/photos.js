"use strict";
// Photos: a picture before all else, cards to search, and a dialog that enlarges one.
const photos = parsed("photo-data");
const severalModels = photos.models.length > 1;
const PAGE = 24;
let listed = [], shownCount = PAGE;

// --- numbers ---
// A photo may be called "constructor", as an object's own fields are not.
const keptOf = (photo) => (Object.hasOwn(photos.shown, photo.id) ? photos.shown[photo.id] : null);
const picturesOf = (photo) => keptOf(photo)?.pictures ?? [];
const hasPicture = (photo) => picturesOf(photo).length > 0;
const hasNone = (photo) => !hasPicture(photo);
function variantsNow() { // indices of the variants at the chosen severity
  const all = photos.variants.map((_, index) => index);
  return all.filter((index) => !severity || photos.variants[index][1] === severity);
}
function variantName(index) {
  const [name, at] = photos.variants[index];
  return severity ? `${name} (${at})` : name;
}
function chosenVariant() { // null: all of them
  const name = byId("photo-under").value;
  return name ? variantsNow().find((index) => photos.variants[index][0] === name) : null;
}
const isKnown = (value) => value !== null && value !== undefined;
function number(value) {
  return !isKnown(value) ? "–" : Math.abs(value) < 0.0005 ? "0.000" : value.toFixed(3);
}
// Of what a photo's number is: a model, by its index, or the change from the first to the second.
const ofWhat = () => (severalModels ? byId("photo-of").value : "0");
function shiftUnder(photo, index) {
  if (ofWhat() !== "change") return photo.shifts[ofWhat()][index];
  const [before, after] = photo.shifts.map((shifts) => shifts[index]);
  return isKnown(before) && isKnown(after) ? after - before : null;
}
function shiftOf(photo, index) { // under a variant, or the mean over all
  if (index !== null) return shiftUnder(photo, index);
  const shifts = variantsNow().map((variant) => shiftUnder(photo, variant)).filter(isKnown);
  return shifts.length ? shifts.reduce((sum, value) => sum + value, 0) / shifts.length : null;
}
const sizeUnder = (photo, index) => Math.abs(shiftUnder(photo, index) ?? 0);
function largestVariant(photo) {
  const larger = (best, index) => (sizeUnder(photo, index) > sizeUnder(photo, best) ? index : best);
  return variantsNow().reduce(larger);
}

// --- the cards ---
function isFound(photo) {
  const find = byId("photo-find").value.toLowerCase(), label = byId("photo-class").value;
  const isIn = (text) => text.toLowerCase().includes(find);
  return (!label || photo.label === label) && (isIn(photo.id) || isIn(photo.label));
}
function ordered(found, shifts) {
  const order = byId("photo-order").value, sign = order === "most" ? -1 : 1;
  const bySize = (a, b) => sign * ((shifts.get(a) ?? -9) - (shifts.get(b) ?? -9));
  const sorted = [...found].sort(order === "name" ? (a, b) => (a.id < b.id ? -1 : 1) : bySize);
  if (!byId("photo-pictured").checked) return sorted;
  return [...sorted.filter(hasPicture), ...sorted.filter(hasNone)];
}
function cardOf(photo, shift, most, variant) {
  const card = element("button", null, { type: "button", class: "card", title: photo.id });
  const picture = element("span", null, { class: "picture" });
  const source = picturesOf(photo)[variant === null ? 0 : variant + 1];
  picture.append(source ? element("img", null, { src: source, alt: "" }) : "no picture");
  const meter = element("div", null, { class: "meter" });
  meter.append(element("i", null, { style: `width:${(100 * Math.abs(shift ?? 0)) / most}%` }));
  const names = photo.label ? [photo.label, photo.id] : [photo.id, ""];
  card.append(picture, element("b", number(shift)), meter);
  card.append(...names.map((name) => element("span", name)));
  card.addEventListener("click", () => showPhoto(photo));
  const item = element("li");
  item.append(card);
  return item;
}
function countInWords(variant) {
  const without = listed.filter(hasNone).length;
  const numbers = [photos.measure];
  if (severalModels) numbers.push(ofWhat() === "change" ? "B minus A" : photos.models[ofWhat()]);
  numbers.push(variant === null ? "mean over the augmentations" : `under ${variantName(variant)}`);
  const counts = [`${listed.length} of ${photos.photos.length} photos`];
  if (without) counts.push(`${without} without a picture`);
  if (photos.unlisted) counts.push(`${photos.unlisted} more are only in shift.parquet`);
  return `${counts.join(", ")}. Numbers: ${numbers.join(", ")}.`;
}
function listPhotos() {
  const variant = chosenVariant();
  const shifts = new Map(photos.photos.map((photo) => [photo, shiftOf(photo, variant)]));
  const most = Math.max(...[...shifts.values()].map((shift) => Math.abs(shift ?? 0)), 1e-9);
  listed = ordered(photos.photos.filter(isFound), shifts);
  const cards = listed.slice(0, shownCount).map((photo) =>
    cardOf(photo, shifts.get(photo), most, variant));
  byId("photo-cards").replaceChildren(...cards);
  byId("photo-count").textContent = countInWords(variant);
  byId("photo-more").hidden = listed.length <= shownCount;
}

// --- views and their gaze ---
const between = (low, high, share) => low + share * (high - low);
const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
function heat(share) { // red, green, blue and alpha, as clipshift.report.charts.gaze draws it
  const last = photos.heat.length - 1, at = Math.min(share, 1) * last;
  const low = Math.min(Math.floor(at), last - 1), [least, most] = photos.opacity;
  const [from, to] = [low, low + 1].map((index) => channels(photos.heat[index]));
  const alpha = (255 * between(least, most, at / last)) / most;
  return [...from.map((value, channel) => between(value, to[channel], at - low)), alpha];
}
function gazeCanvas([most, bytes], [rows, columns], scale) {
  const small = element("canvas", null, { width: columns, height: rows });
  const pixels = small.getContext("2d").createImageData(columns, rows);
  [...atob(bytes)].forEach((byte, index) => {
    pixels.data.set(heat(((byte.charCodeAt(0) / 255) * most) / scale), 4 * index);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const canvas = element("canvas", null, { width: 224, height: 224, class: "gaze" });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, 224, 224);
  return canvas;
}
function viewOf(title, source, canvas) {
  const figure = element("figure"), stack = element("div", null, { class: "stack" });
  stack.append(element("img", null, { src: source, alt: title }), ...(canvas ? [canvas] : []));
  figure.append(stack, element("figcaption", title));
  return figure;
}
function fade(box, opacity) {
  for (const canvas of box.querySelectorAll("canvas.gaze")) {
    canvas.style.opacity = opacity;
    canvas.previousSibling.style.filter = `grayscale(${Math.min(1, 2 * opacity)})`;
  }
}
// Under a variant: the gaze on the clean view, on the view, and that moved back onto the photo.
const mapsOf = (gaze, index) => [gaze.maps[0], gaze.maps[index + 1], gaze.back[index]];
function greatestShare(gazes, index) {
  const maps = gazes.flatMap((gaze) => mapsOf(gaze, index)).filter(Boolean);
  return Math.max(...maps.map(([most]) => most), 1e-9);
}

// --- the largest shift, beside the answer ---
function showLargest() {
  const box = byId("largest"), pictured = photos.photos.filter(hasPicture);
  if (!box || severalModels || !pictured.length) return;
  const sizes = pictured.map((one) => sizeUnder(one, largestVariant(one)));
  const photo = pictured[sizes.indexOf(Math.max(...sizes))], index = largestVariant(photo);
  const pictures = [picturesOf(photo)[0], picturesOf(photo)[index + 1]];
  const names = ["clean", variantName(index)], { gaze } = keptOf(photo).models[0];
  const views = pictures.map((source, view) => viewOf(names[view], source));
  const maps = gaze ? mapsOf(gaze, index).slice(0, 2) : [];
  views.push(...maps.filter(Boolean).map((map, view) => {
    const canvas = gazeCanvas(map, gaze.shape, greatestShare([gaze], index));
    return viewOf(`gaze, ${names[view]}`, pictures[view], canvas);
  }));
  box.querySelector(".views").replaceChildren(...views);
  fade(box, photos.opacity[1]);
  byId("largest-text").textContent = "The largest shift of the pictures on this page: " +
    `${photo.label || photo.id}, ${photos.measure} ${number(shiftUnder(photo, index))}.`;
  byId("largest-open").onclick = () => showPhoto(photo);
  box.hidden = false;
}

// --- the dialog: one photo enlarged ---
let shownPhoto = null;
const PARTS = {
  most: "one of those that moved most",
  least: "one of those that moved least",
  typical: "a typical one",
};
const NO_PICTURE = "This page holds no picture of this photo: only of some that moved most, some " +
  "that moved least, and some between, where the photo could still be read as it was measured.";
const NOT_KEPT = "The gaze on this photo was not kept: measure with save.gaze=N, which keeps that " +
  "on the first N photos.";

function showPhoto(photo) {
  const select = byId("photo-variant"), dialog = byId("photo-dialog");
  const variant = dialog.open ? select.value : chosenVariant() ?? largestVariant(photo);
  shownPhoto = photo;
  byId("photo-name").textContent = photo.id;
  const about = [photo.label && `class: ${photo.label}`, PARTS[keptOf(photo)?.part]];
  byId("photo-about").textContent = about.filter(Boolean).join("; ");
  select.replaceChildren(...photos.variants.map((_, index) =>
    element("option", variantName(index), { value: index })));
  select.value = variant;
  showVariant();
  if (!dialog.open) dialog.showModal();
}
function showNext(by) {
  const next = listed.indexOf(shownPhoto) + by;
  if (listed.length) showPhoto(listed[(next + listed.length) % listed.length]);
}
function showVariant() {
  const index = Number(byId("photo-variant").value), models = keptOf(shownPhoto)?.models ?? [];
  const gazes = hasPicture(shownPhoto) ? models.map(({ gaze }) => gaze).filter(Boolean) : [];
  // gazes of different kinds have no common scale
  const alike = new Set(photos.kinds).size === 1;
  const scales = gazes.map((gaze) => greatestShare(alike ? gazes : [gaze], index));
  const rows = hasPicture(shownPhoto) ? viewRows(models, index, gazes, scales) : [];
  byId("photo-views").replaceChildren(...rows);
  byId("gaze-note").replaceChildren(...gazeNote(index, gazes, scales, alike));
  byId("gaze-label").hidden = !gazes.length;
  byId("photo-numbers").replaceChildren(numbersTable(shownPhoto, models, index));
  const nearest = models.flatMap((model, position) => nearestTables(model, position, index));
  byId("photo-nearest").replaceChildren(...nearest);
  byId("photo-nearest").hidden = !nearest.length;
  fadeDialog();
}
const fadeDialog = () => fade(byId("photo-views"), byId("gaze-opacity").value / 100);

function viewRows(models, index, gazes, scales) { // a row for each model with gaze, or one
  const [clean, view] = [picturesOf(shownPhoto)[0], picturesOf(shownPhoto)[index + 1]];
  const seen = gazes.length ? models : models.slice(0, 1);
  return seen.map(({ gaze }, position) => {
    const of = severalModels && gazes.length ? `${photos.models[position]}: ` : "";
    const canvasOf = (map) => map && gazeCanvas(map, gaze.shape, scales[gazes.indexOf(gaze)]);
    const [onClean, onView, back] = gaze ? mapsOf(gaze, index).map(canvasOf) : [];
    const row = element("div", null, { class: "views" });
    row.append(viewOf(`${of}clean`, clean, onClean));
    row.append(viewOf(`${of}${variantName(index)}`, view, onView));
    if (back) row.append(viewOf(`${of}gaze on the view, moved back onto the photo`, clean, back));
    const shift = gaze?.shift?.[index];
    if (shift) {
      const canvas = gazeCanvas(shift, gaze.shape, shift[0]);
      row.append(viewOf(`${of}where heads gather the shift`, view, canvas));
    }
    return row;
  });
}
function gazeNote(index, gazes, scales, alike) {
  if (hasNone(shownPhoto)) return [NO_PICTURE];
  if (photos.kinds.every((kind) => !kind)) {
    return [`${photos.models.join(" and ")}: no gaze, as the image tower pools neither by one ` +
      "query of attention nor by averaging locations."];
  }
  if (!gazes.length) return [NOT_KEPT];
  const percent = (share) => `${(100 * share).toFixed(share < 0.01 ? 2 : 1)} %`;
  const scale = alike ? "one scale" : "a scale for each model";
  const most = [...new Set(scales.map(percent))].join(" and ");
  const still = gazes.some((gaze) => gaze.back[index]) ? "" : " This augmentation moves no pixels.";
  const style = `background:linear-gradient(90deg,${photos.heat})`;
  const ramp = element("span", null, { class: "ramp", style });
  const shift = gazes.some((gaze) => gaze.shift) ? " Where heads gather the shift: the " +
    "share of each patch in what moves the embedding, on a scale of its own." : "";
  const named = (words, model) => words && ` ${severalModels ? `${photos.models[model]}: ` : ""}${words}`;
  const faithful = photos.faithful.map(named).join("");
  return [ramp, ` Gaze on ${scale}, from none to ${most} of it in one patch.${still}${shift}${faithful}`];
}
function tableOf(heads, rows) {
  const table = element("table"), head = element("thead"), body = element("tbody");
  const add = (part, cells) => {
    const row = element("tr");
    row.append(...cells);
    part.append(row);
  };
  add(head, heads.map((cell) => element("th", cell, { scope: "col" })));
  for (const [name, ...values] of rows) {
    const cells = values.map((value) => element("td", value));
    add(body, [element("th", name, { scope: "row" }), ...cells]);
  }
  table.append(head, body);
  return table;
}
function numbersTable(photo, models, index) { // all measures where kept, or else the shifts
  if (models.length) {
    const names = severalModels ? photos.models : [variantName(index)];
    const valuesOf = (name) => models.map((model) => number(model.values[name][index]));
    const rows = photos.measures.map(([name, short]) => [short, ...valuesOf(name)]);
    return tableOf(["measure", ...names], rows);
  }
  const names = severalModels ? photos.models : [photos.measure];
  const rows = variantsNow().map((variant) =>
    [photos.variants[variant][0], ...photo.shifts.map((shifts) => number(shifts[variant]))]);
  return tableOf(["augmentation", ...names], rows);
}
function nearestTables({ nearest }, model, index) {
  if (!nearest) return [];
  const of = severalModels ? `${photos.models[model]}: ` : "";
  const heads = [`${of}nearest classes, clean`, `${of}under ${variantName(index)}`];
  return [nearest[0], nearest[index + 1]].map((view, position) => {
    const rows = view.map(([name, cosine]) => [name, number(cosine)]);
    return tableOf([heads[position], "cosine"], rows);
  });
}

// --- what the reader chooses ---
const unique = (values) => [...new Set(values)];
function offer(id, options) {
  byId(id).append(...options.map(([value, text]) => element("option", text, { value })));
}
function offerChoices() {
  const labels = unique(photos.photos.map(({ label }) => label).filter(Boolean)).sort();
  offer("photo-class", labels.map((label) => [label, label]));
  byId("photo-class").parentElement.hidden = labels.length < 2;
  offer("photo-under", unique(photos.variants.map(([name]) => name)).map((name) => [name, name]));
  offer("photo-of", [...photos.models.entries(), ["change", "B minus A"]]);
  byId("photo-of").parentElement.hidden = !severalModels;
  if (severalModels) byId("photo-of").value = "change";
}
function listFromFirst() {
  shownCount = PAGE;
  listPhotos();
}
function showMore() {
  shownCount += 4 * PAGE;
  listPhotos();
}
function onKey(event) {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by && !event.target.matches("select, input")) showNext(by);
}

offerChoices();
for (const id of ["of", "find", "class", "under", "order", "pictured"]) {
  byId(`photo-${id}`).addEventListener("input", listFromFirst);
}
byId("photo-controls").addEventListener("submit", (event) => event.preventDefault());
byId("photo-more").addEventListener("click", showMore);
byId("photo-variant").addEventListener("change", showVariant);
byId("gaze-opacity").addEventListener("input", fadeDialog);
byId("photo-close").addEventListener("click", () => byId("photo-dialog").close());
byId("photo-back").addEventListener("click", () => showNext(-1));
byId("photo-next").addEventListener("click", () => showNext(1));
byId("photo-dialog").addEventListener("keydown", onKey);
byId("severity")?.addEventListener("change", () => {
  listPhotos();
  showLargest();
});
listPhotos();
showLargest();
