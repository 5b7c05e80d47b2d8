"use strict";
// What pages cannot do without a script: charts from tables, parts of a page that follow a running job, and answers that
// are shown while they are made.
(() => {
  const STACKED = "stacked";
  const formats = {
    usd: (value) => "$" + (value !== 0 && Math.abs(value) < 0.1 ? value.toPrecision(2) : value.toFixed(2)),
    ms: (value) => (value >= 1000 ? (value / 1000).toFixed(1) + " s" : value.toFixed(0) + " ms"),
    percent: (value) => (value * 100).toFixed(value > 0 && value < 0.1 ? 1 : 0) + "%",
    count: (value) => (value >= 1e6 ? value / 1e6 + " M" : value >= 1e4 ? value / 1e3 + " k" : String(value)),
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // The numbers of a table: its first column is the time, each other one a series.
  function read(table) {
    const rows = [...table.tBodies[0].rows];
    const times = rows.map((row) => Date.parse(row.cells[0].firstElementChild.dateTime) / 1000);
    const names = [...table.tHead.rows[0].cells].slice(1).map((cell) => cell.textContent.trim());
    const values = names.map((_, at) =>
      rows.map((row) => (row.cells[at + 1].dataset.value === "" ? null : Number(row.cells[at + 1].dataset.value))));
    return { times, names, values };
  }

  function sums(values) {
    return values.map((_, at) => values[0].map((_, row) => values.slice(at).reduce((sum, one) => sum + (one[row] || 0), 0)));
  }

  function draw(figure) {
    const plot = figure.querySelector(".plot");
    const { times, names, values } = read(figure.querySelector("table"));
    const { kind, unit } = figure.dataset;
    const stacked = kind === STACKED;
    const drawn = stacked ? sums(values) : values;
    const step = times.length > 1 ? times[1] - times[0] : 3600;
    const outputs = [...figure.querySelectorAll(".legend output")];
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const bars = uPlot.paths.bars({ size: [0.7, 48], align: 1 });
    const series = names.map((name, at) => {
      const stroke = colour("--series-" + (at + 1));
      return kind === "line"
        ? { label: name, stroke, width: 2, spanGaps: true, points: { show: values[at].filter((one) => one !== null).length < 40, size: 5, fill: stroke } }
        : { label: name, stroke, fill: stroke, width: 0, paths: bars, points: { show: false } };
    });
    const shown = (chart) => {
      const at = chart.cursor.idx;
      outputs.forEach((output, number) => {
        const value = at == null ? null : values[number][at];
        output.textContent = value == null ? "" : formats[unit](value);
      });
    };
    plot.replaceChildren();
    const chart = new uPlot({
      width: plot.clientWidth,
      height: plot.clientHeight,
      padding: [10, 12, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false } },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      scales: {
        x: { range: (_, low, high) => [low, kind === "line" ? Math.max(high, low + 1) : high + step] },
        y: { range: (_, low, high) => [0, high > 0 ? high * 1.12 : 1] },
      },
      axes: [
        { ...axis, size: 28, grid: { show: false }, values: (_, splits) => splits.map((at) => label(at, step)) , space: 64 },
        { ...axis, size: 62, space: 36, values: (_, splits) => splits.map((value) => formats[unit](Number(value.toPrecision(12)))) },
      ],
      series: [{}, ...series],
      hooks: { setCursor: [shown] },
    }, [times, ...drawn], plot);
    return chart;
  }

  function label(seconds, step) {
    const time = new Date(seconds * 1000).toISOString();
    return step < 86400 && time.slice(11, 16) !== "00:00" ? time.slice(11, 16) : time.slice(5, 10);
  }

  function drawAll(root) {
    for (const figure of root.querySelectorAll("figure.chart")) {
      let chart = draw(figure);
      const plot = figure.querySelector(".plot");
      new ResizeObserver(() => chart.setSize({ width: plot.clientWidth, height: plot.clientHeight })).observe(plot);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { chart.destroy(); chart = draw(figure); });
    }
  }

  // A running job: each event makes htmx load the live part of the page again, at most once a second.
  function follow(live) {
    const events = new EventSource(live.dataset.events);
    let waiting = null;
    const refresh = () => { waiting ??= setTimeout(() => { waiting = null; htmx.trigger("#live", "refresh"); }, 1000); };
    let first = true;
    events.addEventListener("progress", () => { if (!first) refresh(); first = false; });
    events.addEventListener("labels", refresh);
    events.addEventListener("end", () => { events.close(); location.reload(); });
    addEventListener("pagehide", () => events.close());
  }

  // The events of a response that is read while it comes: each is a name and its data.
  async function* eventsOf(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const frames = (text + value).split("\n\n");
      text = frames.pop();
      for (const frame of frames) {
        const fields = Object.fromEntries(frame.split("\n").map((line) => line.split(/: (.*)/s)));
        if (fields.data) yield [fields.event, JSON.parse(fields.data)];
      }
    }
  }

  // A turn of a conversation: its answer is shown while it is made; then the page has it, with its cost. The form keeps
  // the turn's id until then, so that a turn that is sent again is the same one.
  async function say(form) {
    const [button, refused, live] = [form.querySelector("button"), form.querySelector("#refused"), document.getElementById("answering")];
    const part = (name) => live.querySelector("[data-" + name + "]");
    if (button.disabled) return;
    button.disabled = true;
    refused.hidden = true;
    live.hidden = false;
    part("said").textContent = form.elements.text.value;
    part("answer").textContent = "";
    part("state").textContent = "It is being answered.";
    try {
      const body = new URLSearchParams(new FormData(form));
      const response = await fetch(form.action, { method: "POST", body, headers: { accept: "text/event-stream" } });
      if (!response.ok) throw new Error(await problemOf(response));
      for await (const [name, data] of eventsOf(response)) {
        if (name === "delta" && data.kind === "text") part("answer").textContent += data.text;
        if (name === "error") throw new Error(data.detail);
        if (name === "end") return location.reload();
      }
      throw new Error("The connection was lost. Send the turn again: it is not answered twice.");
    } catch (error) {
      refused.textContent = error instanceof TypeError ? "The gateway does not answer. Send the turn again: it is not answered twice." : error.message;
      refused.hidden = false;
      live.hidden = true;
    }
    button.disabled = false;
  }

  async function problemOf(response) {
    const isKnown = (response.headers.get("content-type") || "").includes("json");
    return isKnown ? (await response.json()).detail : "The turn was not sent. Load the page again.";
  }

  document.addEventListener("DOMContentLoaded", () => {
    drawAll(document);
    for (const live of document.querySelectorAll("[data-events]")) follow(live);
    // A page that is not looked at asks for nothing.
    document.body.addEventListener("htmx:beforeRequest", (event) => { if (document.hidden) event.preventDefault(); });
    for (const form of document.querySelectorAll("form[data-confirm]"))
      form.addEventListener("submit", (event) => { if (!confirm(form.dataset.confirm)) event.preventDefault(); });
    for (const form of document.querySelectorAll("form[data-chat]")) {
      form.addEventListener("submit", (event) => { event.preventDefault(); say(form); });
      form.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(); });
    }
    for (const select of document.querySelectorAll("select[data-submit]"))
      select.addEventListener("change", () => select.form.requestSubmit());
  });
})();
