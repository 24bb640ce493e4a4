// The panel with all time lines: the bar above them, a card for each recording, its player and its table.

const cards = report.recordings.map((recording, number) => ({ number, recording, counts: null, element: null }));
let list = null, totals = null, near = null;

function recordingsPanel() {
  readColours();
  list = make("div", { id: "recordings" });
  near = new IntersectionObserver(onNear, { rootMargin: "300px 0px" });
  for (const card of cards) list.append(buildCard(card));
  const bar = toolbar();
  count();
  sort();
  addEventListener("resize", soon(redraw));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (readColours(), redraw()));
  return [bar, list];
}

// A function that runs once before the next frame, however often it is called.
function soon(run) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => ((waiting = false), run()));
  };
}

function toolbar() {
  totals = make("div", { className: "totals", "aria-live": "polite" });
  const scores = make("output", { htmlFor: "min-score" }, report.minScore.toFixed(2));
  const slider = make("input", { type: "range", id: "min-score", min: 0, max: 1, step: 0.01, value: report.minScore });
  const update = soon(() => (count(), redraw()));
  slider.addEventListener("input", () => {
    wanted.minScore = Math.round(10000 * slider.value);
    scores.textContent = Number(slider.value).toFixed(2);
    update();
  });
  slider.addEventListener("change", soon(() => (count(), sort(), redraw())));
  const byClass = choice("class", "Class", [["-1", "all"], ...report.classNames.map((name, label) => [label, name])]);
  byClass.select.addEventListener("change", () => {
    wanted.label = Number(byClass.select.value);
    count();
    sort();
    redraw();
  });
  const order = choice("order", "Order", [["errors", "most wrong first"], ["name", "by name"], ["seconds", "longest first"]]);
  order.select.addEventListener("change", () => ((wanted.order = order.select.value), sort()));
  const search = make("input", { type: "search", id: "search", placeholder: "part of a name", size: 14 });
  search.addEventListener("input", soon(() => ((wanted.name = search.value.toLowerCase()), sort())));
  return make(
    "div", { className: "toolbar", role: "group", "aria-label": "What the time lines show" },
    make("label", { for: "min-score" }, "Lowest score ", slider, scores), byClass.element, order.element,
    make("label", { for: "search" }, "Recording ", search), trackBoxes(), totals,
  );
}

function choice(id, text, options) {
  const select = make("select", { id }, ...options.map(([value, name]) => make("option", { value }, name)));
  return { select, element: make("label", { for: id }, text, select) };
}

function trackBoxes() {
  const boxes = tracks.map((track) => {
    const box = make("input", { type: "checkbox", checked: wanted.tracks.includes(track) });
    box.addEventListener("change", () => {
      wanted.tracks = tracks.filter((other) => (other === track ? box.checked : wanted.tracks.includes(other)));
      redraw();
    });
    return make("label", {}, box, track.name);
  });
  return make("fieldset", {}, make("legend", {}, "Show"), ...boxes);
}

// Counts the errors of the main track in every recording; cards show them and are sorted by them.
function count() {
  const sums = { right: 0, double: 0, wrong: 0, missed: 0 };
  for (const card of cards) {
    card.counts = judge(mainTrack, card.number);
    for (const kind in sums) sums[kind] += card.counts[kind];
    if (card.near || !card.told) tell(card);
  }
  const found = sums.right + sums.double + sums.wrong, actions = sums.right + sums.missed;
  const told = `precision ${percent(found ? sums.right / found : null)} %, recall ${percent(actions ? sums.right / actions : null)} %`;
  totals.replaceChildren(
    make("strong", {}, mainTrack.name), ...Object.keys(sums).map((kind) => key(kind, sums[kind])),
    make("span", { className: "note" }, `${told}; right is tIoU \u2265 ${report.tiou}`),
  );
}

function tell(card) {
  card.told = true;
  card.keys.replaceChildren(...["right", "double", "wrong", "missed"].map((kind) => key(kind, card.counts[kind])));
}

const ORDERS = {
  errors: (a, b) => wrongness(b.counts) - wrongness(a.counts) || errorsOf(b) - errorsOf(a),
  name: (a, b) => a.recording.name.localeCompare(b.recording.name, undefined, { numeric: true }),
  seconds: (a, b) => b.recording.seconds - a.recording.seconds,
};
const errorsOf = ({ counts }) => counts.double + counts.wrong + counts.missed;

function sort() {
  const sorted = [...cards].sort(ORDERS[wanted.order]);
  for (const card of sorted) card.element.hidden = !card.recording.name.toLowerCase().includes(wanted.name);
  if (sorted.some((card, place) => list.children[place] !== card.element)) list.append(...sorted.map((card) => card.element));
}

// Only time lines on the screen and near to it are drawn.
function onNear(entries) {
  for (const entry of entries) {
    const card = cards[entry.target.dataset.number];
    card.near = entry.isIntersecting;
    if (card.near) drawCard(card);
  }
}

function redraw() {
  hideTooltip();
  const shown = cards.filter((card) => card.near), widths = shown.map((card) => card.canvas?.clientWidth);
  shown.forEach((card, i) => drawCard(card, widths[i]));
}

function drawCard(card, width) {
  tell(card);
  if (!card.timeline) addCanvas(card);
  card.timeline.draw(width);
  card.canvas.setAttribute("aria-label", spoken(card));
  if (card.table) fillTable(card);
}

function spoken({ recording, counts: { right, double, wrong, missed } }) {
  return (
    `Time line of ${recording.name}, ${clock(recording.seconds)}, ${recording.actions.length} actions. ${mainTrack.name}: ` +
    `${right} true, ${double} duplicate, ${wrong} false, ${missed} missed. Keys: arrows move, plus and minus zoom, 0 shows ` +
    "all, comma and full stop go from item to item, space plays."
  );
}

function buildCard(card) {
  const { recording, number } = card;
  card.keys = make("span", { style: "display: contents" });
  card.said = make("p", { className: "said", "aria-live": "polite" });
  card.stage = make("div", { className: "stage" });
  card.stage.style.minHeight = `${AXIS + 34 + 44 * wanted.tracks.length}px`;
  card.body = make("div", {}, card.stage);
  const title = make("h3", { id: `recording-${number}` }, recording.name);
  const length = make("span", { className: "note" }, `${clock(recording.seconds, 1)}, ${recording.actions.length} actions`);
  card.element = make(
    "article", { "aria-labelledby": `recording-${number}` },
    make("div", { className: "head" }, title, length, card.keys, buttonsOf(card)), card.body, card.said,
  );
  card.element.dataset.number = number;
  near.observe(card.element);
  return card.element;
}

function buttonsOf(card) {
  const button = (text, title, act) => {
    const element = make("button", { className: "small", type: "button", title, "aria-label": `${title}: ${card.recording.name}` }, text);
    element.addEventListener("click", () => act(element));
    return element;
  };
  const buttons = [
    button("\u2212", "Zoom out", () => withTimeline(card, (line) => line.zoom(2))),
    button("+", "Zoom in", () => withTimeline(card, (line) => line.zoom(0.5))),
    button("All", "Show the whole recording", () => withTimeline(card, (line) => line.show(0, line.seconds))),
    button("Table", "As a table", (element) => toggleTable(card, element)),
  ];
  if (card.recording.media) {
    const name = report.kinds[card.recording.name] === "audio" ? "Listen" : "Play";
    buttons.unshift(button(name, "Play the recording", (element) => togglePlayer(card, element)));
  }
  return make("span", { className: "buttons" }, ...buttons);
}

function withTimeline(card, act) {
  if (!card.timeline) drawCard(card);
  act(card.timeline);
}

function addCanvas(card) {
  card.canvas = make("canvas", { tabIndex: 0, role: "application" });
  card.stage.append(card.canvas);
  card.timeline = new Timeline(card.number, card.canvas);
  card.timeline.onDraw = () => placeCursor(card);
  card.stage.style.minHeight = "";
  listen(card);
}

// Mouse, touch and keys on a time line.
function listen(card) {
  const { canvas, timeline } = card;
  let pressed = null;
  const placeOf = (event) => [event.offsetX, event.offsetY];
  canvas.addEventListener("wheel", (event) => {
    const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (!event.ctrlKey && !event.metaKey && !sideways) return; // the page scrolls
    event.preventDefault();
    if (sideways) timeline.pan(((event.deltaX || event.deltaY) / timeline.width) * (timeline.to - timeline.from));
    else timeline.zoom(Math.exp(event.deltaY / 300), event.offsetX);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    pressed = { x: event.clientX, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (pressed && (pressed.moved || Math.abs(event.clientX - pressed.x) > 4)) {
      timeline.pan(((pressed.x - event.clientX) / timeline.width) * (timeline.to - timeline.from));
      pressed = { x: event.clientX, moved: true };
    } else showTooltip(event, timeline, timeline.itemAt(...placeOf(event)));
  });
  canvas.addEventListener("pointerup", (event) => {
    if (pressed && !pressed.moved) {
      select(card, timeline.itemAt(...placeOf(event)));
      seek(card, timeline.timeAt(event.offsetX));
    }
    pressed = null;
  });
  canvas.addEventListener("pointercancel", () => (pressed = null));
  canvas.addEventListener("pointerleave", hideTooltip);
  canvas.addEventListener("dblclick", (event) => timeline.zoom(0.4, event.offsetX));
  canvas.addEventListener("keydown", (event) => onKey(event, card));
}

function onKey(event, card) {
  const { timeline } = card, tenth = (timeline.to - timeline.from) / 10;
  const acts = {
    ArrowLeft: () => timeline.pan(-tenth),
    ArrowRight: () => timeline.pan(tenth),
    "+": () => timeline.zoom(0.5),
    "=": () => timeline.zoom(0.5),
    "-": () => timeline.zoom(2),
    0: () => timeline.show(0, timeline.seconds),
    ",": () => step(card, -1),
    ".": () => step(card, 1),
    " ": () => card.player && (card.player.paused ? card.player.play() : card.player.pause()),
  };
  if (!(event.key in acts) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  acts[event.key]();
}

// The next or the previous item, track by track and in each by time.
function step(card, by) {
  const { timeline } = card, items = inOrder(timeline.items);
  if (!items.length) return;
  const at = timeline.selected ? items.findIndex((item) => sameItem(item, timeline.selected)) : by > 0 ? -1 : 0;
  const item = items[(at + by + items.length) % items.length];
  if (item.start < timeline.from || item.end > timeline.to) {
    const middle = (item.start + item.end) / 2, half = (timeline.to - timeline.from) / 2;
    timeline.show(middle - half, middle + half);
  }
  select(card, item);
  seek(card, item.start);
}

const inOrder = (items) =>
  [...items].sort((a, b) => wanted.tracks.indexOf(a.track) - wanted.tracks.indexOf(b.track) || a.start - b.start);

function select(card, item) {
  card.timeline.selected = item;
  card.said.textContent = item ? card.timeline.describe(item).join(" \u00b7 ") : "";
  card.timeline.draw();
}

function showTooltip(event, timeline, item) {
  const tooltip = document.getElementById("tooltip");
  tooltip.hidden = !item;
  if (!item) return;
  tooltip.replaceChildren(...timeline.describe(item).map((line) => make("div", {}, line)));
  const { width, height } = tooltip.getBoundingClientRect();
  tooltip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 4))}px`;
  tooltip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18}px`;
}

function hideTooltip() {
  document.getElementById("tooltip").hidden = true;
}

// The line at a time: where a click was, or where the player is.
function seek(card, seconds) {
  card.at = Math.min(Math.max(seconds, 0), card.timeline.seconds);
  if (card.player) card.player.currentTime = card.at;
  placeCursor(card);
}

function placeCursor(card) {
  if (card.at === undefined) return;
  card.cursor ??= card.stage.appendChild(make("div", { className: "cursor" }));
  const x = card.timeline.xOf(card.at);
  card.cursor.hidden = x < 0 || x > card.timeline.width;
  card.cursor.style.left = `${x}px`;
}

function togglePlayer(card, button) {
  button.setAttribute("aria-expanded", String(!card.player));
  if (card.player) {
    card.player.pause();
    card.player.parentElement.remove();
    card.player = null;
    card.body.className = "";
  } else {
    const kind = report.kinds[card.recording.name];
    card.player = make(kind, { controls: true, preload: "auto", src: card.recording.media });
    card.player.setAttribute("aria-label", `Recording ${card.recording.name}`);
    card.player.addEventListener("play", () => follow(card));
    card.player.addEventListener("seeked", () => moveTo(card));
    card.player.addEventListener("loadedmetadata", () => card.at && (card.player.currentTime = card.at));
    card.player.addEventListener("error", () => (card.said.textContent = `This browser cannot play ${decodeURI(card.recording.media)}`));
    card.body.className = "player";
    card.body.prepend(make("div", {}, card.player));
    card.player.play().catch(() => {}); // without a click before it a browser may refuse
  }
  drawCard(card);
}

function follow(card) {
  if (!card.player || card.player.paused) return;
  moveTo(card);
  requestAnimationFrame(() => follow(card));
}

function moveTo(card) {
  if (!card.player) return;
  const { timeline } = card;
  card.at = card.player.currentTime;
  if (!card.player.paused && (card.at > timeline.to || card.at < timeline.from)) timeline.show(card.at, card.at + timeline.to - timeline.from);
  placeCursor(card);
}

function toggleTable(card, button) {
  button.setAttribute("aria-expanded", String(!card.table));
  if (card.table) {
    card.table.remove();
    card.table = null;
    return;
  }
  card.table = card.element.appendChild(make("div", { className: "table scroll", tabIndex: 0 }));
  card.table.setAttribute("aria-label", `Table of ${card.recording.name}`);
  withTimeline(card, () => fillTable(card));
}

function fillTable(card) {
  const { timeline } = card, rows = inOrder(timeline.items).map((item) => rowOf(timeline, item));
  const head = ["where", "class", "what", "start", "end", "score", "tIoU"].map((name) => make("th", { scope: "col" }, name));
  card.table.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)));
}

function rowOf(timeline, { track, row, action, kind, start, end }) {
  const detected = row !== undefined;
  const label = detected ? track.labels[row] : timeline.actions[action][2];
  const what = detected && kind === "wrong" ? words(report.types[track.outcomes[row]]) : kind === "truth" ? "" : KINDS[kind].name;
  const numbers = detected ? [track.scores[row], track.tious[row]].map((value) => (value / 10000).toFixed(3)) : ["", ""];
  const cells = [track ? track.name : "ground truth", report.classNames[label], what, start.toFixed(2), end.toFixed(2), ...numbers];
  return make("tr", {}, ...cells.map((cell) => make("td", {}, cell)));
}
