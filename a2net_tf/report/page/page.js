// The parts of the page, each built when it is first opened.

const grid = (...boxes) => [make("div", { className: "grid" }, ...boxes.flat())];
const PANELS = {
  overview: ["Overview", () => grid(mapTable(), segmentationTable(), thresholdChart(), durationChart(), recallChart(), reliabilityChart())],
  timelines: ["Time lines", recordingsPanel],
  errors: ["Errors", () => (withErrors.length ? grid(errorTable(), gainChart(), profileChart(), Object.keys(withErrors[0].metrics.errors.by_property).map(propertyChart)) : [make("p", {}, "No action has a length.")])],
  classes: ["Classes", () => grid(classTable(), classChart())],
  training: ["Training", () => grid(trainingCharts())],
  runs: [SEVERAL_RUNS ? "Runs" : "Run", () => grid(report.runs.map(runBox))],
};
if (!report.runs.some((run) => run.history.epoch?.length)) delete PANELS.training;

function start() {
  const first = report.runs[0], names = report.runs.map((run) => run.name).join(" and ");
  document.title = `${names}: report`;
  document.getElementById("subtitle").textContent = `${first.dataset}, ${first.split}: ${report.recordings.length} recordings, ${first.num_ground_truths} actions, ${report.classNames.length} classes`;
  document.getElementById("cards").append(...summaryCards());
  const tabs = document.getElementById("tabs"), main = document.getElementById("main");
  for (const [name, [title]] of Object.entries(PANELS)) {
    const tab = make("button", { type: "button", id: `tab-${name}`, role: "tab", "aria-controls": `panel-${name}` }, title);
    tab.addEventListener("click", () => open(name));
    tabs.append(tab);
    main.append(make("div", { id: `panel-${name}`, className: "panel", role: "tabpanel", "aria-labelledby": tab.id, hidden: true }));
  }
  tabs.addEventListener("keydown", onTabKey);
  addEventListener("hashchange", () => open(location.hash.slice(1)));
  open(location.hash.slice(1));
}

function open(asked) {
  const name = asked in PANELS ? asked : "overview";
  for (const other of Object.keys(PANELS)) {
    const tab = document.getElementById(`tab-${other}`);
    tab.setAttribute("aria-selected", String(other === name));
    tab.tabIndex = other === name ? 0 : -1;
    document.getElementById(`panel-${other}`).hidden = other !== name;
  }
  const panel = document.getElementById(`panel-${name}`);
  if (!panel.childElementCount) panel.append(...PANELS[name][1]());
  if (asked) history.replaceState(null, "", `#${name}`);
}

function onTabKey(event) {
  const names = Object.keys(PANELS), at = names.findIndex((name) => document.activeElement.id === `tab-${name}`);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: names.length - 1 }[event.key];
  if (to === undefined || at < 0) return;
  event.preventDefault();
  const name = names[(to + names.length) % names.length];
  open(name);
  document.getElementById(`tab-${name}`).focus();
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
else start();
