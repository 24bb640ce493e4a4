"use strict";
// What the page shows, decoded, and what is counted of it. Names in it come from users' files: they become texts of
// elements, never markup.

const report = window.REPORT_DATA ?? JSON.parse(document.getElementById("data").textContent);
const RIGHT = 0, DOUBLE = 1, NONE = 65535;
const SEVERAL_RUNS = report.runs.length > 1;

// Elements: make("td", {className: "meter"}, "text", otherElement).
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

const percent = (fraction, digits = 1) => (fraction == null ? "-" : (100 * fraction).toFixed(digits));
const words = (name) => name.replaceAll("_", " ");

function clock(seconds, digits = 2) {
  if (Math.abs(seconds) < 60) return `${seconds.toFixed(digits)} s`;
  const whole = Math.floor(seconds), rest = (seconds - whole).toFixed(digits).slice(1);
  const two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return `${hours ? `${hours}:${two(minutes)}` : minutes}:${two(whole % 60)}${digits ? rest : ""}`;
}

function unpack(text, Kind) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return new Kind(bytes.buffer);
}

// Each track is what one branch of one run has found; those of recording r are rows offsets[r] to offsets[r + 1].
const tracks = report.tracks.map((track) => {
  const offsets = new Uint32Array(track.counts.length + 1);
  track.counts.forEach((count, r) => (offsets[r + 1] = offsets[r] + count));
  const branch = words(track.branch), run = report.runs[track.run].name;
  return {
    run: track.run,
    branch: track.branch,
    name: SEVERAL_RUNS ? `${run}: ${branch}` : branch,
    offsets,
    leftOut: track.leftOut,
    starts: unpack(track.starts, Float32Array),
    ends: unpack(track.ends, Float32Array),
    scores: unpack(track.scores, Uint16Array), // in 1/10000, as tious are
    labels: unpack(track.labels, Uint16Array),
    tious: unpack(track.tious, Uint16Array),
    nearest: unpack(track.nearest, Uint16Array), // which action of the recording
    outcomes: unpack(track.outcomes, Uint8Array), // which of report.types
  };
});

const lastOfRun = (run) => tracks.findLast((track) => track.run === run);
const mainTrack = lastOfRun(0);

// What the slider, the filter and the boxes above the time lines ask for.
const wanted = {
  minScore: Math.round(10000 * report.minScore),
  label: -1, // all
  tracks: SEVERAL_RUNS ? report.runs.map((_, run) => lastOfRun(run)) : [...tracks],
  name: "",
  order: "errors",
};

const isWanted = (label) => wanted.label < 0 || wanted.label === label;

// How a track does on a recording, among what the slider and the filter leave: counts, and which actions are missed.
function judge(track, recording) {
  const actions = report.recordings[recording].actions, found = new Uint8Array(actions.length);
  const counts = { right: 0, double: 0, wrong: 0, missed: 0, found };
  const end = track.offsets[recording + 1];
  for (let i = track.offsets[recording]; i < end && track.scores[i] >= wanted.minScore; i++) {
    if (wanted.label >= 0 && wanted.label !== track.labels[i]) continue;
    if (track.outcomes[i] === RIGHT) {
      counts.right++;
      found[track.nearest[i]] = 1;
    } else if (track.outcomes[i] === DOUBLE) counts.double++;
    else counts.wrong++;
  }
  for (let a = 0; a < actions.length; a++) counts.missed += !found[a] && isWanted(actions[a][2]);
  return counts;
}

// 1 - F1: from 0, all right, to 1.
function wrongness({ right, double, wrong, missed }) {
  const errors = double + wrong + missed;
  return errors ? errors / (2 * right + errors) : 0;
}

const KINDS = {
  right: { sign: "\u2713", name: "true" },
  double: { sign: "=", name: "duplicate" },
  wrong: { sign: "\u00d7", name: "false" },
  missed: { sign: "\u25bd", name: "missed" },
};
const kindOf = (outcome) => (outcome === RIGHT ? "right" : outcome === DOUBLE ? "double" : "wrong");

function key(kind, count = "") {
  const text = `${count} ${KINDS[kind].name}`.trim();
  return make("span", { className: `key ${kind}` }, make("i", { "aria-hidden": "true" }, KINDS[kind].sign), text);
}
