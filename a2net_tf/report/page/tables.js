// Numbers as tables, and what the runs were.

function table(head, body, { sortable = false } = {}) {
  const rows = body.map((cells) => make("tr", {}, ...cells.map((cell) => (cell instanceof Node ? cell : make("td", {}, cell)))));
  const tbody = make("tbody", {}, ...rows);
  const headers = head.map((name, column) => {
    if (!sortable) return make("th", { scope: "col" }, name);
    const button = make("button", { type: "button" }, name), header = make("th", { scope: "col" }, button);
    button.addEventListener("click", () => sortBy(tbody, header, column));
    return header;
  });
  return make("div", { className: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...headers)), tbody));
}

function sortBy(tbody, header, column) {
  const falls = header.getAttribute("aria-sort") !== "descending";
  for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", falls ? "descending" : "ascending");
  const valueOf = (row) => row.children[column].textContent;
  const compare = (a, b) => {
    const [x, y] = [valueOf(a), valueOf(b)].map(Number);
    return Number.isNaN(x) || Number.isNaN(y) ? valueOf(b).localeCompare(valueOf(a)) : y - x;
  };
  tbody.append(...[...tbody.children].sort((a, b) => (falls ? 1 : -1) * compare(a, b)));
}

function meter(fraction) {
  const cell = make("td", { className: "meter" }, percent(fraction));
  cell.style.setProperty("--part", `${100 * (fraction ?? 0)}%`);
  return cell;
}

function tableBox(title, note, content, { wide = true } = {}) {
  return make("section", { className: `box${wide ? " wide" : ""}` }, make("h2", {}, title), make("p", { className: "note" }, note), content);
}

function mapTable() {
  const head = ["mAP (%) at tIoU", ...thresholds, "average", "normalised", "AR@100"];
  const body = rows.map(({ name, metrics }) => [
    name, ...metrics.mAP.map((value) => meter(value)), meter(metrics.average_mAP), meter(metrics.average_mAP_normalized),
    percent(metrics.proposals?.["AR@"]?.["100"]),
  ]);
  const rule = { thumos14: "tIoU above the threshold, AP not interpolated", activitynet: "tIoU at least the threshold, AP interpolated" };
  const { protocol, num_videos: videos, num_ground_truths: actions } = report.runs[0];
  const judged = protocol in rule ? protocol : "activitynet";
  return tableBox("Mean average precision", `Protocol ${judged} (${rule[judged]}), ${videos} recordings, ${actions} actions.`, table(head, body));
}

function segmentationTable() {
  const judged = rows.filter((row) => row.metrics.segmentation);
  if (!judged.length) return [];
  const overlaps = Object.keys(judged[0].metrics.segmentation.f1);
  const body = judged.map(({ name, metrics: { segmentation: s } }) => [name, ...overlaps.map((k) => s.f1[k].toFixed(1)), s.edit.toFixed(1), s.accuracy.toFixed(1)]);
  return [tableBox("A label for every step", "F1, edit score and accuracy, in percent.", table(["", ...overlaps.map((k) => `F1@${k}`), "edit", "accuracy"], body))];
}

function classTable() {
  const level = thresholds.indexOf(report.tiou);
  const head = ["class", "actions", "detections", ...rows.map((row) => row.name)];
  const body = report.classNames.map((name) => {
    const entries = rows.map((row) => row.metrics.per_class[name]), last = entries.at(-1);
    return [name, last?.num_ground_truths ?? "", last?.num_detections ?? "", ...entries.map((entry) => meter(entry?.AP ? entry.AP[level] : null))];
  });
  return tableBox("Classes", `AP in percent at tIoU ${report.tiou}. A click on a heading sorts; detections are those of ${rows.at(-1).name}.`, table(head, body, { sortable: true }));
}

function errorTable() {
  const body = withErrors.flatMap(({ name, metrics: { errors } }) => [
    [`${name}: share (%)`, ...report.types.map((type) => percent(errors.false_positives[type].share)), percent(errors.missed)],
    [`${name}: mAP gained without`, ...report.types.map((type) => (type === "true_positive" ? "" : `+${percent(errors.false_positives[type].gain)}`)), ""],
  ]);
  const note =
    "By the definitions of DETAD (Alwassel et al., ECCV 2018), means over the tIoU thresholds, of the 10 G best detections of each class, G being the " +
    "number of its actions. Double detection: its action is found already. Wrong label: the action is of another class. Localization: tIoU too low, at " +
    "least 0.1. Confusion: both. Background: no action there.";
  return tableBox("Errors", note, table(["", ...report.types.map(words), "missed actions"], body));
}

const shown = (value) => (Array.isArray(value) ? value.join(", ") : value === "" ? "(empty)" : String(value));

function runBox(run) {
  const minutes = run.trainingSeconds ? `${(run.trainingSeconds / 60).toFixed(1)} minutes, ${run.history.epoch.length} epochs` : null;
  const facts = {
    data: run.dataset, split: run.split, protocol: run.protocol, checkpoint: run.checkpoint, seed: run.seed, training: minutes,
    "trained in": run.precision, commit: run.commit, ...Object.fromEntries(Object.entries(run.versions ?? {}).map(([name, version]) => [`version of ${name}`, version])),
  };
  const list = (pairs) => make("dl", {}, ...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, shown(value))]));
  const known = Object.entries(facts).filter(([, value]) => value != null && value !== "");
  return make(
    "section", { className: "box" }, make("h2", {}, run.name), list(known),
    make("h3", { style: "margin-top: 16px" }, "Settings that are not at their default"),
    list(Object.entries(run.settings).map(([name, value]) => [`--${name}`, value])),
  );
}

function summaryCards() {
  const card = (value, text) => make("div", {}, make("b", {}, value), make("span", {}, text));
  const last = rows.filter((row) => row.isLast);
  const level = thresholds.indexOf(report.tiou);
  return (SEVERAL_RUNS ? last : rows).map((row) => {
    const name = SEVERAL_RUNS ? report.runs[row.run].name : words(row.branch);
    return card(`${percent(row.metrics.average_mAP)} %`, `average mAP, ${name} (${percent(row.metrics.mAP[level])} at ${report.tiou})`);
  });
}
