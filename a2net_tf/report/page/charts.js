// The curves and bars, which plotly draws. It is loaded when the first is asked for.

let loading = null;
function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const text = document.getElementById("plotly"), script = make("script");
    if (text) {
      script.textContent = text.textContent;
      document.head.append(script);
      resolve(window.Plotly);
    } else {
      script.src = "plotly.js";
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => reject(new Error("plotly.js, which lies beside this page, could not be loaded"));
      document.head.append(script);
    }
  });
  return loading;
}

const PALETTE = ["#3d7fd9", "#e08a1e", "#17a081", "#a367d6", "#d8455f", "#7a8694", "#8c6d31", "#c95fa6", "#4fb3c8", "#9aa83a"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const TYPE_COLOURS = ["--right", "--double", "#d8709c", "#d9a441", "#8f7ad1", "#9aa5b1"];
const NOT_ITSELF = /[&<>]/g;
// plotly reads tags in texts: names must stay as they are.
const plain = (text) => String(text).replace(NOT_ITSELF, (letter) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[letter]);

// Every branch of every run, with its name and its colour.
const rows = report.runs.flatMap((run, r) =>
  Object.entries(run.branches).map(([branch, metrics], b, all) => ({
    run: r, branch, metrics, isLast: b === all.length - 1,
    name: SEVERAL_RUNS ? `${run.name}: ${words(branch)}` : words(branch),
    colour: PALETTE[(SEVERAL_RUNS ? r : b) % PALETTE.length],
    dash: DASHES[SEVERAL_RUNS ? (all.length - 1 - b) % DASHES.length : 0],
    opacity: SEVERAL_RUNS ? 1 - 0.25 * Math.min(all.length - 1 - b, 2) : 1,
  })),
);
const thresholds = report.runs[0].tiou_thresholds;

const drawn = new Set(); // functions that draw a chart again
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach((draw) => draw()));

// A box with a chart, which is drawn when it is first seen. figure() gives {traces, layout, summary}.
function chartBox(title, note, figure, { wide = false, controls = [], height = 0 } = {}) {
  const chart = make("div", { className: "chart", role: "img" });
  if (height) chart.style.height = `${height}px`;
  const draw = async () => {
    const { traces, layout = {}, summary = "" } = figure();
    chart.setAttribute("aria-label", `${title}. ${summary}`);
    const Plotly = await plotly();
    await Plotly.react(chart, traces, layoutOf(layout), { displayModeBar: false, responsive: true });
  };
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    drawn.add(draw);
    draw();
  });
  seen.observe(chart);
  for (const control of controls) control.addEventListener("change", () => drawn.has(draw) && draw());
  const tools = controls.length ? [make("p", {}, ...controls.map((control) => control.parentElement ?? control))] : [];
  return make("section", { className: `box${wide ? " wide" : ""}` }, make("h2", {}, title), make("p", { className: "note" }, note), ...tools, chart);
}

function layoutOf(own) {
  const style = getComputedStyle(document.documentElement), of = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: of("--grid"), zerolinecolor: of("--line"), linecolor: of("--line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 50, r: 14, t: 10, b: 44 },
    font: { family: "system-ui, sans-serif", size: 12.5, color: of("--ink") }, hovermode: "closest", colorway: PALETTE,
    dragmode: matchMedia("(hover: none)").matches ? false : "zoom", // where there are no mice a finger moves the page
    hoverlabel: { namelength: -1 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12 } }, ...own,
    xaxis: { ...axis, ...own.xaxis }, yaxis: { ...axis, ...own.yaxis },
    ...(own.yaxis2 ? { yaxis2: { ...axis, ...own.yaxis2, showgrid: false } } : {}),
  };
}

const titled = (text, more = {}) => ({ title: { text, standoff: 8, font: { size: 12.5 } }, ...more });
const inPercent = (values) => values.map((value) => (value == null ? null : 100 * value));
const summaryOf = (pairs) => pairs.map(([name, value]) => `${name}: ${percent(value)} percent`).join(", ");

function lineOf(row, x, y, more = {}) {
  return {
    x, y, name: plain(row.name), mode: "lines", opacity: row.opacity, line: { color: row.colour, width: row.isLast ? 3 : 2, dash: row.dash },
    hovertemplate: "%{y:.1f} at %{x}<extra>%{fullData.name}</extra>", ...more,
  };
}

function barsOf(row, x, y, more = {}) {
  return {
    type: "bar", x, y, name: plain(row.name), opacity: row.opacity, marker: { color: row.colour },
    hovertemplate: "%{y:.1f}<extra>%{fullData.name}</extra>", ...more,
  };
}

function thresholdChart() {
  return chartBox("mAP by tIoU", "How close a detection must come to an action, and how much is found then.", () => ({
    traces: rows.map((row) => lineOf(row, thresholds, inPercent(row.metrics.mAP), { mode: "lines+markers" })),
    layout: { xaxis: titled("tIoU threshold"), yaxis: titled("mAP (%)", { rangemode: "tozero" }) },
    summary: summaryOf(rows.map((row) => [row.name, row.metrics.average_mAP])),
  }));
}

function durationChart() {
  const level = thresholds.indexOf(report.tiou);
  const name = ({ from_seconds: from, to_seconds: to, num_ground_truths: n }) => {
    const span = to == null ? `from ${+from.toFixed(2)} s` : `${+from.toFixed(2)} to ${+to.toFixed(2)} s`;
    return `${span}<br>${n} actions`;
  };
  return chartBox("mAP by duration of the action", `At tIoU ${report.tiou}.`, () => ({
    traces: rows.map((row) => barsOf(row, row.metrics.by_duration.map(name), inPercent(row.metrics.by_duration.map((b) => b.mAP[level])))),
    layout: { yaxis: titled("mAP (%)"), barmode: "group", bargap: 0.25 },
  }));
}

function recallChart() {
  const select = make("select", { "aria-label": "tIoU or class" });
  thresholds.forEach((t, i) => select.append(make("option", { value: `t${i}`, selected: t === report.tiou }, `all classes, tIoU ${t}`)));
  report.classNames.forEach((name, c) => select.append(make("option", { value: `c${c}` }, `${name}, tIoU ${report.tiou}`)));
  const curveOf = (row) => {
    const number = Number(select.value.slice(1));
    if (select.value[0] === "t") return row.metrics.curves[number];
    return row.isLast ? report.runs[row.run].classCurves[report.classNames[number]] : null;
  };
  const note = "Interpolated, matched as in the ActivityNet protocol; all classes are one list of detections. Of one class, the last branch.";
  return chartBox("Precision and recall", note, () => ({
    traces: rows.filter((row) => curveOf(row)).map((row) => {
      const curve = curveOf(row);
      return lineOf(row, curve.map((_, i) => i), inPercent(curve), { hovertemplate: "precision %{y:.1f} at recall %{x}<extra>%{fullData.name}</extra>" });
    }),
    layout: { xaxis: titled("recall (%)", { range: [0, 101] }), yaxis: titled("precision (%)", { range: [0, 103] }) },
  }), { controls: [select] });
}

function reliabilityChart() {
  const errors = rows.map((row) => `${row.name} ${row.metrics.reliability.expected_error?.toFixed(3) ?? "-"}`).join(", ");
  const note = `Below the diagonal scores promise too much. Mean distance (expected calibration error): ${errors}.`;
  return chartBox("Can scores be taken for probabilities?", note, () => ({
    traces: [
      { x: [0, 1], y: [0, 100], mode: "lines", showlegend: false, hoverinfo: "skip", line: { dash: "dot", width: 1, color: "#8a94a0" } },
      ...rows.map((row) => {
        const bins = row.metrics.reliability.bins.filter((bin) => bin.num_detections);
        const counts = bins.map((bin) => bin.num_detections);
        return lineOf(row, bins.map((bin) => bin.mean_score), inPercent(bins.map((bin) => bin.precision)), {
          mode: "lines+markers", customdata: counts, marker: { size: counts.map((n) => 5 + 2 * Math.log10(n)) },
          hovertemplate: "%{y:.1f} % of %{customdata} are right<br>mean score %{x:.2f}<extra>%{fullData.name}</extra>",
        });
      }),
    ],
    layout: { xaxis: titled("score", { range: [0, 1] }), yaxis: titled(`right at tIoU ${report.tiou} (%)`, { range: [0, 103] }) },
  }));
}

function classChart() {
  const mean = (values) => (values ? values.reduce((a, b) => a + b, 0) / values.length : null);
  const height = Math.max(300, 90 + report.classNames.length * (10 + 13 * Math.min(rows.length, 4)));
  const names = [...report.classNames].reverse();
  return chartBox("Average precision by class", "Mean over the tIoU thresholds.", () => ({
    traces: [...rows].reverse().map((row) => ({
      ...barsOf(row, inPercent(names.map((name) => mean(row.metrics.per_class[name]?.AP))), names.map(plain), { orientation: "h" }),
      hovertemplate: "%{x:.1f}<extra>%{fullData.name}</extra>",
    })),
    layout: { xaxis: titled("AP (%)", { range: [0, 100] }), yaxis: { type: "category" }, barmode: "group", legend: { orientation: "h", y: 1, yanchor: "bottom", traceorder: "reversed" } },
  }), { wide: true, height });
}

const withErrors = rows.filter((row) => row.metrics.errors);

function gainChart() {
  const types = report.types.slice(1);
  return chartBox("What the mAP would gain without each error", "Points of average mAP, when detections with that error are taken away.", () => ({
    traces: withErrors.map((row) => barsOf(row, types.map(words), inPercent(types.map((t) => row.metrics.errors.false_positives[t].gain)))),
    layout: { yaxis: titled("mAP gained (points)"), barmode: "group" },
    summary: withErrors.map((row) => `${row.name}: ${types.map((t) => `${words(t)} ${percent(row.metrics.errors.false_positives[t].gain)}`).join(", ")}`).join("; "),
  }));
}

function profileChart() {
  const select = make("select", { "aria-label": "Branch" }, ...withErrors.map((row, i) => make("option", { value: i, selected: row.isLast && row.run === 0 }, row.name)));
  const style = () => getComputedStyle(document.documentElement);
  const colour = (name) => (name.startsWith("--") ? style().getPropertyValue(name).trim() : name);
  const note = "Of the G best detections of each class, G being the number of its actions, of the G after those, and so on.";
  return chartBox("What detections turn out to be", note, () => {
    const profile = withErrors[select.value].metrics.errors.profile;
    return {
      traces: report.types.map((type, t) => ({
        type: "bar", name: words(type), x: profile.map((_, g) => `${g + 1} G`), y: inPercent(profile.map((group) => group.share?.[type] ?? null)),
        marker: { color: colour(TYPE_COLOURS[t]) }, customdata: profile.map((group) => group.num_detections),
        hovertemplate: "%{y:.1f} % of %{customdata}<extra>%{fullData.name}</extra>",
      })),
      layout: { barmode: "stack", bargap: 0.15, yaxis: titled("share (%)", { range: [0, 100] }), legend: { orientation: "h", y: 1.02, yanchor: "bottom", traceorder: "normal" } },
    };
  }, { controls: [select] });
}

const PROPERTIES = { coverage: "Coverage of the recording", length: "Length of the action", num_instances: "Actions of the class in the recording" };
function spanOf(property, { name, above, up_to: to }) {
  const number = (value) => (property === "coverage" ? `${+(100 * value).toFixed(1)} %` : `${+value.toFixed(2)}${property === "length" ? " s" : ""}`);
  return `${name}<br>${to == null ? `> ${number(above)}` : `\u2264 ${number(to)}`}`;
}

function propertyChart(property) {
  const value = make("select", { "aria-label": "What is shown" }, make("option", { value: "missed" }, "missed actions"), make("option", { value: "average_mAP_normalized" }, "normalised mAP"));
  return chartBox(PROPERTIES[property], "By buckets of the actions.", () => ({
    traces: withErrors.map((row) => {
      const { buckets } = row.metrics.errors.by_property[property];
      return barsOf(row, buckets.map((b) => spanOf(property, b)), inPercent(buckets.map((b) => b[value.value])), {
        customdata: buckets.map((b) => b.num_ground_truths), hovertemplate: "%{y:.1f} %, %{customdata} actions<extra>%{fullData.name}</extra>",
      });
    }),
    layout: { barmode: "group", yaxis: titled(value.value === "missed" ? "missed (%)" : "normalised mAP (%)", { range: [0, 100] }) },
  }), { controls: [value] });
}

const NOT_A_LOSS = /^(epoch|seconds|gradient_norm|validation_.*|.*_positives_.*)$/;
function trainingCharts() {
  return report.runs.filter((run) => run.history.epoch?.length).map((run) => {
    const { history } = run, losses = Object.keys(history).filter((name) => !NOT_A_LOSS.test(name));
    const curve = (name, more) => ({ x: history.epoch, y: history[name], name: words(name), mode: "lines", hovertemplate: "%{y:.4g}, epoch %{x}<extra>%{fullData.name}</extra>", ...more });
    const judged = history.validation_mAP?.some((value) => value != null);
    const traces = losses.map((name) => curve(name, name === "loss" ? { line: { width: 3 } } : { line: { width: 1.5 }, visible: losses.length > 6 ? "legendonly" : true }));
    if (judged) traces.push(curve("validation_mAP", { y: inPercent(history.validation_mAP), yaxis: "y2", mode: "lines+markers", connectgaps: true, line: { color: "#17a081", width: 2.5 } }));
    const title = SEVERAL_RUNS ? `Training of ${run.name}` : "Training";
    const note = `Loss${judged ? " and mAP of the validation split" : ""} by epoch. A click on a name in the legend shows or hides a curve.`;
    return chartBox(title, note, () => ({
      traces,
      layout: { xaxis: titled("epoch"), yaxis: titled("loss", { type: "log" }), ...(judged ? { yaxis2: titled("validation mAP (%)", { overlaying: "y", side: "right", rangemode: "tozero" }) } : {}) },
    }), { wide: true, height: 400 });
  });
}
