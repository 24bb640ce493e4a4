// The time line of one recording on a canvas: ground truth above what each track has found.

const AXIS = 20, CAPTION = 17, LANE = 17, STRIP = 9, GAP = 7, MOST_LANES = 14, LEAST_WIDTH = 2.5;
const STEPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200];

let colours = null; // of the style sheet; read anew when the system turns dark
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "soft", "line", "grid", "card", "accent", "right", "double", "wrong", "missed", "truth", "truth-ink"];
  colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  colours.stripes = null;
}

function stripes(context) {
  if (!colours.stripes) {
    const tile = make("canvas", { width: 6, height: 6 }), pen = tile.getContext("2d");
    pen.strokeStyle = colours.double;
    pen.lineWidth = 1.6;
    for (const x of [-6, 0, 6]) {
      pen.beginPath();
      pen.moveTo(x, 6);
      pen.lineTo(x + 6, 0);
      pen.stroke();
    }
    colours.stripes = context.createPattern(tile, "repeat");
  }
  return colours.stripes;
}

// The lane of each segment, so that none covers another: the first that is free. Stronger detections come first, so
// that the slider moves nothing.
function lanesOf(rows, startOf, endOf) {
  const lanes = [], laneOf = new Map();
  for (const row of rows) {
    const start = startOf(row), end = endOf(row);
    let lane = lanes.findIndex((taken) => taken.every(([s, e]) => end <= s || start >= e));
    if (lane < 0) lane = Math.min(lanes.length, MOST_LANES - 1);
    (lanes[lane] ??= []).push([start, end]);
    laneOf.set(row, lane);
  }
  return laneOf;
}

class Timeline {
  // recording: its number; canvas: where to draw.
  constructor(recording, canvas) {
    this.recording = recording;
    this.canvas = canvas;
    this.actions = report.recordings[recording].actions;
    this.seconds = report.recordings[recording].seconds;
    this.from = 0;
    this.to = this.seconds;
    this.lanes = new Map();
    this.items = []; // what is drawn: {x, y, width, height, kind, track, row, action, start, end}
    this.selected = null;
  }

  // Shows [from, to] seconds, as far as that is inside of the recording.
  show(from, to) {
    const least = Math.min(0.2, this.seconds), length = Math.min(Math.max(to - from, least), this.seconds);
    this.from = Math.min(Math.max(from, 0), this.seconds - length);
    this.to = this.from + length;
    this.draw();
  }

  zoom(factor, x = this.canvas.clientWidth / 2) {
    const at = this.timeAt(x), length = (this.to - this.from) * factor;
    const part = (at - this.from) / (this.to - this.from);
    this.show(at - part * length, at + (1 - part) * length);
  }

  pan(seconds) {
    this.show(this.from + seconds, this.to + seconds);
  }

  timeAt(x) {
    return this.from + (x / this.canvas.clientWidth) * (this.to - this.from);
  }

  xOf(seconds) {
    return ((seconds - this.from) / (this.to - this.from)) * this.width;
  }

  laneOf(track) {
    const name = `${track ? track.name : ""}/${wanted.label}`;
    if (!this.lanes.has(name)) {
      const rows = [];
      if (track) {
        for (let i = track.offsets[this.recording]; i < track.offsets[this.recording + 1]; i++)
          if (isWanted(track.labels[i])) rows.push(i);
        this.lanes.set(name, lanesOf(rows, (i) => track.starts[i], (i) => track.ends[i]));
      } else {
        this.actions.forEach((action, a) => isWanted(action[2]) && rows.push(a));
        this.lanes.set(name, lanesOf(rows, (a) => this.actions[a][0], (a) => this.actions[a][1]));
      }
    }
    return this.lanes.get(name);
  }

  // Where everything goes: fills this.items and this.captions, and returns the height.
  layOut() {
    const judged = wanted.tracks.map((track) => judge(track, this.recording));
    this.items = [];
    this.captions = [];
    let y = this.layOutTruth(AXIS, judged);
    wanted.tracks.forEach((track, t) => (y = this.layOutTrack(track, judged[t], y + GAP)));
    return y + 4;
  }

  layOutTruth(top, judged) {
    const lanes = this.laneOf(null);
    this.captions.push({ y: top, text: "ground truth" });
    let most = 0;
    for (const [a, lane] of lanes) {
      const [start, end] = this.actions[a];
      const kind = judged.length && judged.every((counts) => !counts.found[a]) ? "missed" : "truth";
      this.items.push({ ...this.bar(start, end, top + CAPTION + lane * LANE), kind, action: a, track: null, start, end });
      most = Math.max(most, lane);
    }
    return top + CAPTION + (most + 1) * LANE;
  }

  layOutTrack(track, counts, top) {
    const lanes = this.laneOf(track), bars = top + CAPTION + STRIP;
    const weakest = track.scores[track.offsets[this.recording + 1] - 1];
    const out = weakest >= wanted.minScore ? track.leftOut[this.recording] : 0;
    this.captions.push({ y: top, text: track.name + (out ? ` (${out} weaker ones are not drawn)` : ""), line: true });
    this.actions.forEach(([start, end, label], a) => {
      if (counts.found[a] || !isWanted(label)) return;
      this.items.push({ ...this.bar(start, end, top + CAPTION, STRIP - 3), kind: "missed", action: a, track, start, end });
    });
    let most = 0;
    for (const [row, lane] of lanes) {
      if (track.scores[row] < wanted.minScore) break; // by descending score
      const start = track.starts[row], end = track.ends[row], kind = kindOf(track.outcomes[row]);
      this.items.push({ ...this.bar(start, end, bars + lane * LANE), kind, row, track, start, end });
      most = Math.max(most, lane);
    }
    return bars + (most + 1) * LANE;
  }

  bar(start, end, y, height = LANE - 3) {
    const x = this.xOf(start);
    return { x, y, width: Math.max(this.xOf(end) - x, LEAST_WIDTH), height };
  }

  // The width is asked for before anything is changed where many are drawn: the browser lays the page out once.
  draw(width = this.canvas.clientWidth) {
    this.width = width;
    if (!this.width) return;
    const height = this.layOut(), dense = window.devicePixelRatio || 1;
    if (this.canvas.style.height !== `${height}px`) this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(this.width * dense);
    this.canvas.height = Math.round(height * dense);
    const pen = this.canvas.getContext("2d");
    pen.scale(dense, dense);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    this.drawAxis(pen, height);
    for (const caption of this.captions) this.drawCaption(pen, caption);
    for (const item of this.items) {
      if (item.x > this.width || item.x + item.width < 0) continue;
      this.drawItem(pen, item);
    }
    this.onDraw?.();
  }

  drawAxis(pen, height) {
    const length = this.to - this.from, most = Math.max(this.width / 85, 2);
    const step = STEPS.find((s) => length / s <= most) ?? STEPS.at(-1);
    pen.fillStyle = colours.soft;
    pen.strokeStyle = colours.grid;
    pen.lineWidth = 1;
    for (let n = Math.ceil(this.from / step - 1e-9); n * step <= this.to + 1e-9; n++) {
      const x = Math.round(this.xOf(n * step)) + 0.5;
      pen.beginPath();
      pen.moveTo(x, AXIS - 4);
      pen.lineTo(x, height);
      pen.stroke();
      const text = clock(n * step, step < 0.1 ? 2 : step < 1 ? 1 : 0), half = pen.measureText(text).width / 2;
      pen.fillText(text, Math.min(Math.max(x - half, 1), this.width - 2 * half - 1), 8);
    }
  }

  drawCaption(pen, { y, text, line }) {
    if (line) {
      pen.strokeStyle = colours.line;
      pen.beginPath();
      pen.moveTo(0, y - GAP / 2 + 0.5);
      pen.lineTo(this.width, y - GAP / 2 + 0.5);
      pen.stroke();
    }
    const width = pen.measureText(text).width;
    pen.fillStyle = colours.card;
    pen.fillRect(0, y, width + 6, CAPTION - 2);
    pen.fillStyle = colours.soft;
    pen.fillText(text, 1, y + CAPTION / 2);
  }

  drawItem(pen, item) {
    const { y, height, kind } = item;
    const x = Math.max(item.x, -8), width = Math.min(item.x + item.width, this.width + 8) - x;
    pen.beginPath();
    pen.roundRect(x + 0.75, y + 0.75, Math.max(width - 1.5, 1), height - 1.5, Math.min(3, width / 3));
    pen.lineWidth = 1.5;
    pen.setLineDash(kind === "missed" ? [4, 3] : []);
    pen.strokeStyle = colours[kind];
    pen.fillStyle = kind === "double" ? stripes(pen) : kind === "right" || kind === "truth" ? colours[kind] : colours.card;
    pen.fill();
    pen.stroke();
    pen.setLineDash([]);
    if (item === this.selected || (this.selected && sameItem(item, this.selected))) {
      pen.strokeStyle = colours.ink;
      pen.lineWidth = 2;
      pen.stroke();
    }
    if (height > STRIP) this.write(pen, item, x, width);
    else if (width > 12) this.drawTriangle(pen, x + width / 2, y);
  }

  drawTriangle(pen, x, y) {
    pen.fillStyle = colours.missed;
    pen.beginPath();
    pen.moveTo(x - 4.5, y);
    pen.lineTo(x + 4.5, y);
    pen.lineTo(x, y + 6);
    pen.fill();
  }

  // The sign of the outcome and as much of the name as there is room for.
  write(pen, { y, height, kind, track, row, action }, x, width) {
    const sign = track ? KINDS[kind].sign : kind === "missed" ? KINDS.missed.sign : "";
    const label = report.classNames[track ? track.labels[row] : this.actions[action][2]];
    const score = track ? ` ${(track.scores[row] / 10000).toFixed(2)}` : "";
    const left = Math.max(x, 0), room = Math.min(x + width, this.width) - left - 8;
    const letters = Math.floor((label.length * (room - 28)) / pen.measureText(label).width);
    const part = letters > 1 ? `${sign} ${[...label].slice(0, letters).join("")}\u2026` : sign;
    const texts = [`${sign} ${label}${score}`, `${sign} ${label}`, part, sign].map((text) => text.trim());
    const text = texts.find((candidate) => candidate && pen.measureText(candidate).width <= room);
    if (!text) return;
    const solid = kind === "right" || kind === "truth", wide = pen.measureText(text).width;
    if (kind === "double") {
      pen.fillStyle = colours.card;
      pen.fillRect(left + 2.5, y + 2.5, wide + 4, height - 5);
    }
    pen.fillStyle = kind === "truth" ? colours["truth-ink"] : solid ? colours.card : colours[kind];
    pen.fillText(text, left + 4.5, y + height / 2 + 0.5);
  }

  // What is at a place of the canvas; of several the smallest.
  itemAt(x, y) {
    const near = this.items.filter(
      (item) => x >= item.x - 2 && x <= item.x + item.width + 2 && y >= item.y - 1 && y <= item.y + item.height + 2,
    );
    return near.sort((a, b) => a.width - b.width)[0] ?? null;
  }

  // Everything that is to be said of it, line by line.
  describe({ track, row, action, kind, start, end }) {
    const lines = [];
    if (row === undefined) {
      lines.push(report.classNames[this.actions[action][2]]);
      lines.push(kind === "missed" ? `missed${track ? ` by ${track.name}` : " by all branches that are shown"}` : "ground truth");
    } else {
      lines.push(`${report.classNames[track.labels[row]]}, score ${(track.scores[row] / 10000).toFixed(3)}`);
      const why = kind === "wrong" ? `: ${words(report.types[track.outcomes[row]])}` : "";
      lines.push(`${KINDS[kind].name}${why} (${track.name})`);
      const near = track.nearest[row];
      if (near !== NONE) {
        const tiou = (track.tious[row] / 10000).toFixed(2);
        lines.push(`tIoU ${tiou} with ${report.classNames[this.actions[near][2]]} at ${clock(this.actions[near][0])}`);
      }
    }
    lines.push(`${clock(start)} to ${clock(end)} (${(end - start).toFixed(2)} s)`);
    return lines;
  }
}

const sameItem = (a, b) => a.track === b.track && a.row === b.row && a.action === b.action;
