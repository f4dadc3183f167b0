"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("scripts");
  const content = JSON.parse(document.getElementById("report-data").textContent);
  const curves = content.data.curves;
  const views = new Map();
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const say = (text) => { document.getElementById("said").textContent = text; };

  // Charts

  async function draw(place) {
    const options = {
      actions: false, renderer: "svg", defaultStyle: false,
      tooltip: { disableDefaultStyle: true },
      loader: { load: () => Promise.reject(new Error("a report loads nothing")) },
    };
    const name = place.dataset.chart;
    const spec = content.charts[name];
    const { view } = await vegaEmbed(place, spec, options);
    views.set(name, view);
    const svg = place.querySelector("svg");
    if (place.classList.contains("diagram")) {
      walk(place, view);
    } else {
      svg.setAttribute("aria-hidden", "true"); // the place around it has the text alternative
    }
    view.addEventListener("click", (event, item) => {
      if (item && item.datum && item.datum.point !== undefined) choose(item.datum.point);
    });
  }

  // A diagram is one stop of the Tab key; arrow keys move between its tiles.

  const tilesOf = (place) => all("path", place).filter((path) => {
    const item = path.__data__;
    return item && item.datum && item.datum.point !== undefined && item.datum.left !== undefined;
  });

  function label(place) {
    for (const path of tilesOf(place)) {
      path.setAttribute("role", "button");
      path.setAttribute("aria-label", path.__data__.datum.label);
      path.removeAttribute("aria-roledescription");
      path.setAttribute("aria-pressed", String(path.__data__.datum.point === chosen));
      if (!path.hasAttribute("tabindex")) path.setAttribute("tabindex", "-1");
    }
  }

  function walk(place) {
    label(place);
    const tiles = tilesOf(place);
    if (tiles.length) tiles[0].setAttribute("tabindex", "0");
    const middle = (datum) => Math.log(datum.n);
    place.addEventListener("keydown", (event) => {
      const here = event.target.__data__ && event.target.__data__.datum;
      if (!here || here.point === undefined) return;
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose(here.point);
        return;
      }
      const across = { ArrowLeft: -1, ArrowRight: 1 }[event.key] || 0;
      const up = { ArrowUp: 1, ArrowDown: -1 }[event.key] || 0;
      if (!across && !up) return;
      event.preventDefault();
      const candidates = tilesOf(place).filter((path) => {
        const there = path.__data__.datum;
        return across
          ? there.bottom === here.bottom && across * (there.n - here.n) > 0
          : there.bottom === here.bottom + up;
      });
      candidates.sort((a, b) =>
        Math.abs(middle(a.__data__.datum) - middle(here)) - Math.abs(middle(b.__data__.datum) - middle(here)));
      if (!candidates.length) return;
      event.target.setAttribute("tabindex", "-1");
      candidates[0].setAttribute("tabindex", "0");
      candidates[0].focus();
    });
  }

  // Training curves of the chosen point

  let chosen = -1;

  function unpack(cell) {
    const bytes = Uint8Array.from(atob(cell.values), (letter) => letter.charCodeAt(0));
    const codes = new DataView(bytes.buffer);
    const steps = curves.steps[cell.steps];
    return (measure, replicate, at) => {
      const code = codes.getUint16(2 * ((measure * cell.replicates + replicate) * steps.length + at), true);
      if (code === 0) return null;
      const low = curves.low[measure], high = curves.high[measure];
      return 10 ** (low + ((code - 1) / 65534) * (high - low));
    };
  }

  function median(values) {
    const sorted = values.slice().sort((a, b) => a - b);
    const half = sorted.length >> 1;
    return sorted.length % 2 ? sorted[half] : Math.sqrt(sorted[half - 1] * sorted[half]);
  }

  function rowsOf(point, measure) {
    const rows = [], medians = [];
    for (const index of curves.points[point].cells) {
      const cell = curves.curves[index];
      if (!cell) continue;
      const value = unpack(cell);
      curves.steps[cell.steps].forEach((step, at) => {
        if (step <= 0) return; // logarithmic axis
        const here = [];
        for (let replicate = 0; replicate < cell.replicates; replicate += 1) {
          const found = value(measure, replicate, at);
          if (found === null) continue;
          here.push(found);
          rows.push({ step, value: found, replicate: `${index}-${replicate}` });
        }
        if (here.length) {
          medians.push({
            step, value: median(here), low: Math.min(...here), high: Math.max(...here), replicates: here.length,
          });
        }
      });
    }
    return { rows, medians };
  }

  function dataOf(point, name) {
    const { rows, medians } = rowsOf(point, curves.measures.indexOf(name));
    const levels = curves.points[point].cells.flatMap((index) => curves.levels[index] || []);
    return { curves: rows, medians, levels: levels.filter((level) => level.measure === name) };
  }

  function spanOf(values, margin) {
    const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
    return [low / margin, high === low ? high * 1.1 : high * margin];
  }

  function roundValues([low, high], most) {
    const found = [];
    for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade += 1) {
      for (const digit of [1, 1.5, 2, 3, 5, 7]) {
        const value = Number(`${digit}e${decade}`);
        if (value >= low && value <= high) found.push(value);
      }
    }
    const whole = found.filter((value) => Math.log10(value) % 1 === 0);
    let kept = whole.length >= 3 ? whole : found;
    while (kept.length > most) kept = kept.filter((value, place) => place % 2 === 0);
    return kept;
  }

  async function showCurves(point) {
    const cells = curves.points[point].cells;
    const note = document.getElementById("chosen-note");
    document.getElementById("chosen").textContent = curves.points[point].name;
    const drawn = cells.some((index) => curves.curves[index]);
    note.hidden = drawn;
    note.textContent = drawn ? "" : "This cell has no training curves: its method does not train step by step, or its rows were left out.";
    document.querySelector(".curves").hidden = !drawn;
    if (!drawn) return;
    for (const name of curves.measures) {
      const view = views.get(`curve-${name}`);
      const data = dataOf(point, name);
      if (!view || !data.curves.length) continue;
      for (const [source, rows] of Object.entries(data)) view.data(source, rows);
      const across = spanOf(data.curves.map((row) => row.step), 1);
      const up = spanOf([...data.curves, ...data.levels].map((row) => row.value), 1.08);
      view.signal("xDomain", across).signal("xTicks", roundValues(across, 5));
      view.signal("yDomain", up).signal("yTicks", roundValues(up, 5));
      await view.runAsync();
      const place = document.querySelector(`[data-chart="curve-${name}"]`);
      const [first, last] = [data.medians[0], data.medians[data.medians.length - 1]];
      const words = name.replaceAll("_", " ");
      const levels = data.levels.map((level) => `; ${level.label} ${level.value.toPrecision(3)}`).join("");
      place.setAttribute("aria-label",
        `${words} of ${curves.points[point].name}: median ${first.value.toPrecision(3)} at step ${first.step}, `
        + `${last.value.toPrecision(3)} at step ${last.step}, ${last.replicates} replicates${levels}`);
      place.dataset.rows = String(data.curves.length);
    }
  }

  async function choose(point, quietly = false) {
    if (!curves || !curves.points[point]) return;
    chosen = point;
    for (const button of all("button[data-point]")) button.setAttribute("aria-pressed", String(Number(button.dataset.point) === point));
    for (const row of all("tr[data-point]")) row.classList.toggle("picked", Number(row.dataset.point) === point);
    for (const [name, view] of views) {
      if (!/^(diagram|complexity)-/.test(name)) continue;
      view.signal("picked", point);
      await view.runAsync();
      if (name.startsWith("diagram-")) label(document.querySelector(`[data-chart="${name}"]`));
    }
    await showCurves(point);
    root.dataset.chosen = String(point);
    if (quietly) return;
    say(`Training curves of ${curves.points[point].name}`);
    const section = document.getElementById("curves").getBoundingClientRect();
    if (section.top > window.innerHeight * 0.8 || section.bottom < window.innerHeight * 0.2) {
      document.getElementById("curves").scrollIntoView({ block: "start" });
    }
  }

  // The table of cells: sorted by its heads, filtered by the form above it

  function makeSortable(table) {
    const body = table.tBodies[0];
    const key = (row, column) => {
      const cell = row.cells[column];
      const text = cell.dataset.sort ?? cell.textContent;
      return { text, number: text === "" ? NaN : Number(text) };
    };
    for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => [key(row, column), row]);
        rows.sort(([a], [b]) => {
          const [left, right] = [Number.isNaN(a.number), Number.isNaN(b.number)];
          if (!left && !right) return sign * (a.number - b.number);
          if (left !== right) return left ? 1 : -1; // what is no number comes last either way
          return sign * a.text.localeCompare(b.text);
        });
        body.append(...rows.map(([, row]) => row));
        say(`Sorted by ${head.textContent.trim()}, ${sign > 0 ? "ascending" : "descending"}`);
      });
    }
  }

  function makeFilter(table) {
    const text = document.getElementById("filter-text");
    const method = document.getElementById("filter-method");
    const trouble = document.getElementById("filter-trouble");
    const count = document.getElementById("filter-count");
    const rows = [...table.tBodies[0].rows].map((row) => [row, [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase()]);
    const apply = () => {
      const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const [row, has] of rows) {
        const keep = words.every((word) => has.includes(word))
          && (!method.value || row.dataset.method === method.value)
          && (!trouble.checked || row.dataset.trouble !== undefined);
        row.hidden = !keep;
        shown += keep;
      }
      count.textContent = `${shown} of ${rows.length} cells`;
    };
    for (const control of [text, method, trouble]) control.addEventListener("input", apply);
    text.form.addEventListener("submit", (event) => event.preventDefault());
  }

  function makeButtons(table) {
    for (const row of table.tBodies[0].rows) {
      if (!row.dataset.point || !curves) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.point = row.dataset.point;
      button.setAttribute("aria-pressed", "false");
      button.textContent = row.cells[0].textContent;
      row.cells[0].replaceChildren(button);
    }
  }

  // On paper everything is open

  const opened = [];
  window.addEventListener("beforeprint", () => {
    for (const details of all("details:not([open]):not(.numbers)")) { details.open = true; opened.push(details); }
  });
  window.addEventListener("afterprint", () => { for (const details of opened.splice(0)) details.open = false; });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-point]");
    if (button) choose(Number(button.dataset.point));
  });

  (async () => {
    const table = document.getElementById("cell-table");
    if (table) { makeButtons(table); makeSortable(table); makeFilter(table); }
    for (const place of all("[data-chart]")) {
      try {
        await draw(place);
      } catch (error) {
        place.textContent = `This chart could not be drawn: ${error.message}`;
        console.error(error);
      }
      await new Promise((done) => setTimeout(done, 0)); // let the page answer between two charts
    }
    if (curves) await choose(curves.first, true);
    root.dataset.ready = "true";
  })();
})();
