"use strict";
(() => {
  const one = (query, root = document) => root.querySelector(query);
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const SVG = "http://www.w3.org/2000/svg";
  const svgTags = new Set(["svg", "path", "line", "text", "g", "rect", "circle", "title"]);
  const make = (tag, attributes = {}, ...children) => {
    const element = svgTags.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value != null) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const short = (value) => {
    if (value == null) return "–";
    if (typeof value !== "number") return String(value);
    if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) return value.toExponential(1).replace("e+", "e");
    return String(+value.toPrecision(3));
  };
  const median = (list) => {
    const known = list.filter((value) => value != null).sort((a, b) => a - b);
    return known.length ? (known[known.length >> 1] + known[(known.length - 1) >> 1]) / 2 : null;
  };

  const slots = ["a", "b"];
  const chosen = { a: null, b: null }; // ids of cells, which live pages keep while rows come and go
  let data, numbers, table, highlighted = null, sorting = { column: null, down: false };

  /* The table of cells is the page's data: every column by its name, every row a cell. */
  function readTable() {
    const heads = all("#cells thead th"), rows = all("#cells tbody tr");
    const columns = heads.map((head, k) => {
      const texts = rows.map((row) => row.cells[k].dataset.value ?? row.cells[k].textContent);
      const values = texts.map((text) => (text === "-" || text === "" ? null : isNaN(text) ? text : +text));
      const numeric = values.some((value) => typeof value === "number") && values.every((v) => v == null || typeof v === "number");
      return { name: head.dataset.name, title: head.dataset.title, kind: head.dataset.kind, values, numeric };
    });
    const named = columns.filter((column) => column.kind === "field");
    const names = rows.map((row, i) => named.filter((c) => c.values[i] != null)
      .map((c) => (c.name === "method" ? c.values[i] : `${c.title} ${short(c.values[i])}`)).join(", ") || data.ids[i].slice(0, 8));
    const said = columns.filter((column) => column.kind === "said");
    const tips = rows.map((row, i) => [names[i], ...said.filter((c) => c.values[i] != null).map((c) => `${c.title} ${short(c.values[i])}`)].join("\n"));
    return { rows, columns, names, tips, index: new Map(data.ids.map((id, i) => [id, i])) };
  }
  const cellOf = (slot) => table.index.get(chosen[slot]) ?? null;

  /* Choosing a cell, A or B: rings on every mark that shows it, and its training curves. */
  function choose(cell, slot = "a") {
    if (cell == null || data.ids[cell] == null) return;
    chosen[slot] = data.ids[cell];
    show();
  }
  function show() {
    for (const slot of slots) {
      const cell = cellOf(slot);
      for (const ring of all(".ring." + slot)) ring.remove();
      for (const row of all("tr." + slot)) row.classList.remove(slot);
      if (cell != null) {
        for (const mark of all(`svg [data-cell="${cell}"]`)) ringAround(mark, slot);
        for (const row of all(`#cells tr[data-cell="${cell}"]`)) row.classList.add(slot);
      }
      const name = one("#name-" + slot);
      if (name) name.textContent = cell == null ? "" : table.names[cell] + (data.curves?.index[cell] ? "" : " (solved directly: no training curves)");
    }
    const second = one("#second");
    if (!second) return;
    second.hidden = chosen.b == null;
    all("#curves .frame svg").forEach((svg, measure) => plot(svg, data.frames[measure], measure));
  }
  function ringAround(mark, slot) {
    const ring = mark.cloneNode(); // drawn last, so that neighbours do not cover it
    for (const { name } of [...ring.attributes]) {
      if (!["d", "x", "y", "cx", "cy", "r", "width", "height", "href", "clip-path", "transform"].includes(name)) ring.removeAttribute(name);
    }
    ring.setAttribute("class", "ring " + slot);
    ring.setAttribute("aria-hidden", "true");
    mark.ownerSVGElement.append(ring);
  }

  /* Training curves: lines in axes that matplotlib drew. */
  async function unpack({ deflated, size }) {
    const bytes = Uint8Array.from(atob(deflated), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const plain = new Uint8Array(await new Response(stream).arrayBuffer());
    return Uint16Array.from({ length: size }, (_, k) => plain[k] | (plain[k + size] << 8));
  }
  function runsOf(cell, measure) { // (replicate, step) decadic logarithms
    const [at, replicates, list] = data.curves.index[cell], steps = data.curves.steps[list], { low, high } = data.curves;
    return Array.from({ length: replicates }, (_, r) => {
      let code = 0;
      return steps.map((_, s) => {
        code = (code + numbers[at + (measure * replicates + r) * steps.length + s]) & 65535;
        return code ? low[measure] + ((code - 1) / 4094) * (high[measure] - low[measure]) : null;
      });
    });
  }
  function plot(svg, frame, measure) {
    const along = (value, [from, to], [low, high]) => from + ((value - low) / (high - low || 1)) * (to - from);
    const px = (step) => along(Math.log10(step), frame.x, frame.xlog);
    const py = (value) => along(Math.max(frame.ylog[0], value), frame.y, frame.ylog);
    one(".drawn", svg)?.remove();
    const group = make("g", { class: "drawn" }), read = [];
    for (const slot of ["b", "a"]) {
      const cell = cellOf(slot);
      if (cell == null || !data.curves.index[cell]) continue;
      const steps = data.curves.steps[data.curves.index[cell][2]], runs = runsOf(cell, measure);
      const middle = steps.map((_, s) => median(runs.map((run) => run[s])));
      const path = (run) => run.map((v, s) => (v == null || steps[s] <= 0 ? " " : `${px(steps[s]).toFixed(1)},${py(v).toFixed(1)}`))
        .join(" ").split(/\s{2,}/).map((part) => part.trim()).filter(Boolean).map((part) => "M" + part.split(" ").join("L")).join("");
      for (const run of runs) group.append(make("path", { class: "run on-" + slot, d: path(run) }));
      group.append(make("path", { class: "median on-" + slot, d: path(middle) }));
      read.unshift({ slot, steps, middle, count: runs.length });
      for (const level of slot === "a" ? data.levels[cell] ?? [] : []) {
        if (level.measure !== frame.measure) continue;
        const y = py(Math.log10(level.value));
        group.append(make("line", { class: "level " + level.dash, x1: frame.x[0], x2: frame.x[1], y1: y, y2: y, "data-tip": `${level.label}: ${short(level.value)}` }));
      }
    }
    svg.append(group);
    const said = ({ slot, steps, middle, count }, s) =>
      `${slot.toUpperCase()}, step ${steps[s]}: ${middle[s] == null ? "–" : short(10 ** middle[s])} (median of ${count})`;
    svg.setAttribute("aria-label", [svg.dataset.label, ...read.map((line) => said(line, line.steps.length - 1))].join("; "));
    svg.onpointermove = (event) => {
      const box = svg.getBoundingClientRect(), at = ((event.clientX - box.left) * svg.viewBox.baseVal.width) / box.width;
      const words = read.map((line) => {
        const near = line.steps.map((step, s) => [step > 0 ? Math.abs(px(step) - at) : Infinity, s]).sort((p, q) => p[0] - q[0])[0];
        return said(line, near[1]);
      });
      tip(event.target.dataset?.tip ?? words.join("\n"), event.clientX, event.clientY);
      event.stopPropagation();
    };
  }

  /* Tooltips, keyboard, highlighting. */
  function tip(text, x, y) {
    const box = one("#tip");
    box.hidden = !text;
    if (!text) return;
    box.textContent = text;
    box.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.offsetWidth - 8)) + "px";
    box.style.top = (y + 18 + box.offsetHeight > innerHeight ? Math.max(4, y - box.offsetHeight - 10) : y + 18) + "px";
  }
  const tipOf = (element) => {
    const mark = element.closest?.("[data-tip],svg [data-cell]");
    return mark && (mark.dataset.tip ?? table.tips[mark.dataset.cell]);
  };
  addEventListener("pointermove", (event) => tip(tipOf(event.target), event.clientX, event.clientY));
  addEventListener("scroll", () => tip(), { passive: true, capture: true });
  addEventListener("focusin", ({ target }) => {
    const words = target.closest?.("svg") && tipOf(target);
    if (!words) return tip();
    const box = target.getBoundingClientRect();
    tip(words, box.right, box.bottom);
  });
  addEventListener("click", (event) => {
    const button = event.target.closest("[data-highlight]"), mark = event.target.closest("[data-cell]");
    if (button) highlight(highlighted === button.dataset.highlight ? null : button.dataset.highlight);
    else if (event.target.id === "drop") { chosen.b = null; show(); }
    else if (mark) choose(+mark.dataset.cell, event.shiftKey ? "b" : "a");
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") { tip(); highlight(null); }
    const here = event.target.closest?.("svg [data-cell],#cells tr[data-cell]");
    if (!here) return;
    if (event.key === "Enter" || event.key === " ") {
      choose(+here.dataset.cell, event.shiftKey ? "b" : "a");
      event.preventDefault();
    }
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    const middle = (element) => { const box = element.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]; };
    const [x, y] = middle(here);
    const others = all("[data-cell]:not(.ring)", here.closest("svg,table")).filter((element) => element !== here && element.offsetParent !== null || element.ownerSVGElement);
    const reach = (element) => {
      const [u, v] = middle(element), ahead = (u - x) * way[0] + (v - y) * way[1], aside = Math.abs((u - x) * way[1] + (v - y) * way[0]);
      return ahead > 1 ? ahead + 3 * aside : Infinity;
    };
    const [distance, next] = others.map((element) => [reach(element), element]).sort((p, q) => p[0] - q[0])[0] ?? [Infinity];
    if (distance === Infinity) return;
    here.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  });
  function operable(root = document) { // marks become buttons, one Tab stop a panel; pages without scripts have none
    for (const svg of all("figure svg", root)) {
      all("[data-cell]", svg).forEach((mark, k) => {
        mark.setAttribute("role", "button");
        mark.setAttribute("tabindex", k ? "-1" : "0");
        mark.setAttribute("aria-label", table.tips[mark.dataset.cell].replaceAll("\n", ", "));
      });
    }
  }
  function highlight(series) {
    highlighted = series;
    for (const mark of all("[data-series]")) mark.classList.toggle("dim", series != null && mark.dataset.series !== series);
    for (const button of all("[data-highlight]")) button.setAttribute("aria-pressed", String(button.dataset.highlight === series));
  }

  /* The table: sorted by its heads, filtered by words. */
  function arrange() {
    const words = one("#filter").value.toLowerCase().split(",").map((word) => word.trim()).filter(Boolean);
    const trouble = one("#trouble").checked, order = table.rows.map((_, i) => i), body = one("#cells tbody");
    if (sorting.column != null) {
      const { values } = table.columns[sorting.column], sign = sorting.down ? -1 : 1;
      order.sort((i, j) => (values[i] == null ? (values[j] == null ? 0 : 1) : values[j] == null ? -1 : values[i] === values[j] ? 0 : values[i] < values[j] ? -sign : sign));
    }
    const holds = (text, word) => { // a word that ends in a number ends there: "rank 1" is not "rank 10"
      const at = text.indexOf(word);
      return at >= 0 && (!/\d$/.test(word) || text.split(word).slice(1).some((rest) => !/^[\d.]/.test(rest)));
    };
    let shown = 0;
    for (const i of order) {
      const text = `${table.names[i]} ${data.ids[i]}`.toLowerCase(), row = table.rows[i];
      row.hidden = !(words.every((word) => holds(text, word)) && (!trouble || row.dataset.trouble != null));
      row.setAttribute("tabindex", row.hidden || shown++ ? "-1" : "0");
      body.append(row);
    }
    one("#count").textContent = `${shown} of ${table.rows.length} cells`;
    all("#cells thead th").forEach((head, k) => head.setAttribute("aria-sort", k !== sorting.column ? "none" : sorting.down ? "descending" : "ascending"));
  }
  function prepareTable() {
    all("#cells thead th").forEach((head, k) => {
      const button = make("button", { type: "button" }, head.textContent);
      button.onclick = () => { sorting = { column: k, down: sorting.column === k && !sorting.down }; arrange(); };
      head.replaceChildren(button, make("span", { class: "paper", "aria-hidden": "true" }, head.textContent));
    });
    for (const id of ["#filter", "#trouble"]) one(id).oninput = arrange;
    one("#every").oninput = () => one("#cells").classList.toggle("every", one("#every").checked);
    arrange();
  }

  /* Any fields against any statistic, from the table. */
  const pick = { view: "heat map" };
  const heat = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
  const width = 640, height = 300, box = { left: 70, right: 620, top: 14, bottom: 250 };
  function scaleOf(column, rows, from, to, banded = false) {
    const values = [...new Set(rows.map((i) => column.values[i]).filter((v) => v != null))].sort((a, b) => (a < b ? -1 : 1));
    const low = values[0], high = values.at(-1), log = column.numeric && low > 0 && high > 8 * low, turn = log ? Math.log : Number;
    if (!column.numeric || banded) {
      const step = (to - from) / values.length, every = Math.ceil(values.length / 14);
      const at = (value) => from + (values.indexOf(value) + 0.5) * step;
      return { values, step, at, ticks: values.filter((_, k) => k % every === 0).map((v) => [at(v), short(v)]) };
    }
    const margin = high > low ? (to - from) * 0.04 : 0, span = turn(high) - turn(low);
    const at = (value) => (span ? from + margin + ((turn(value) - turn(low)) / span) * (to - from - 2 * margin) : (from + to) / 2);
    const few = values.length <= 7 ? values : Array.from({ length: 5 }, (_, k) => (log ? low * (high / low) ** (k / 4) : low + ((high - low) * k) / 4));
    return { values, at, ticks: few.map((v) => [at(v), short(v)]) };
  }
  function frame(svg, x, y, titles) {
    svg.append(make("path", { class: "axis", d: `M${box.left} ${box.top}V${box.bottom}H${box.right}` }));
    for (const [at, text] of x.ticks) svg.append(make("text", { x: at, y: box.bottom + 15, "text-anchor": "middle" }, text));
    for (const [at, text] of y.ticks) svg.append(make("text", { x: box.left - 6, y: at + 4, "text-anchor": "end" }, text));
    svg.append(make("text", { x: (box.left + box.right) / 2, y: box.bottom + 36, "text-anchor": "middle" }, titles[0]));
    svg.append(make("text", { x: 4, y: 10 }, titles[1]));
  }
  function explore() {
    if (!one("#explore")) return;
    const fields = table.columns.filter((c) => c.kind === "field" && new Set(c.values).size > 1);
    const statistics = table.columns.filter((c) => c.kind !== "field" && c.numeric);
    if (!fields.length || !statistics.length) return one("#explore").replaceChildren();
    const by = Object.fromEntries(table.columns.map((c) => [c.name, c])), free = fields.filter((c) => c.name !== "method");
    const methods = by.method ? [...new Set(by.method.values)] : [];
    pick.x ??= (free.at(-1) ?? fields[0]).name;
    pick.y ??= (free.find((c) => c.name !== pick.x) ?? fields[0]).name;
    pick.value ??= (by.success ?? statistics[0]).name;
    pick.of ??= methods.length > 1 ? methods[0] : "every method"; // methods are not pooled unless asked for
    const select = (key, label, options) => {
      const menu = make("select", {}, ...options.map(([value, text]) => make("option", { value }, text)));
      menu.value = pick[key];
      menu.onchange = () => { pick[key] = menu.value; explore(); };
      return make("label", {}, label + " ", menu);
    };
    const titled = (list) => list.map((c) => [c.name, c.title]), over = pick.view === "scatter" ? [...fields, ...statistics] : fields;
    if (!over.some((c) => c.name === pick.x)) pick.x = over[0].name;
    one("#explore").replaceChildren(...[
      select("view", "view", ["heat map", "lines", "scatter", "parallel coordinates"].map((v) => [v, v])),
      pick.view !== "parallel coordinates" && select("x", "across", titled(over)),
      pick.view === "heat map" && select("y", "up", titled(fields)),
      select("value", pick.view === "heat map" || pick.view === "parallel coordinates" ? "colour" : "up", titled(statistics)),
      methods.length > 1 && select("of", "of", [...methods, "every method"].map((m) => [m, m])),
    ].filter(Boolean));
    const value = by[pick.value].values;
    const rows = table.rows.map((_, i) => i).filter((i) => value[i] != null && (!methods.includes(pick.of) || by.method.values[i] === pick.of));
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${pick.view}: ${by[pick.value].title}` });
    const known = rows.map((i) => value[i]), low = Math.min(...known), high = Math.max(...known), log = low > 0 && high > 30 * low;
    const shade = (v) => heat[Math.min(9, Math.floor(10 * (high > low ? (log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low)) : 1)))];
    const draw = { "heat map": heatMap, lines: lineChart, scatter: scatterPlot, "parallel coordinates": parallel }[pick.view];
    const note = rows.length ? draw(svg, rows, by, fields, shade) : "Nothing here has this statistic.";
    one("#drawing").replaceChildren(make("figure", {}, svg, make("figcaption", { class: "note" }, note ?? "")));
    operable(one("#drawing"));
    show();
  }
  function grouped(rows, keyOf) {
    const groups = new Map();
    for (const i of rows) groups.set(keyOf(i), [...(groups.get(keyOf(i)) ?? []), i]);
    return groups;
  }
  const pooled = (groups, fields, used) => {
    const most = Math.max(...[...groups.values()].map((group) => group.length));
    const others = fields.filter((c) => !used.includes(c.name) && [...groups.values()].some((g) => new Set(g.map((i) => c.values[i])).size > 1));
    return most > 1 ? `Each value is the median of up to ${most} cells that differ in ${others.map((c) => c.title).join(", ") || "nothing shown"}.` : "";
  };
  function heatMap(svg, rows, by, fields, shade) {
    const x = scaleOf(by[pick.x], rows, box.left, box.right, true), y = scaleOf(by[pick.y], rows, box.bottom, box.top, true);
    const groups = grouped(rows, (i) => by[pick.x].values[i] + "|" + by[pick.y].values[i]);
    frame(svg, x, y, [by[pick.x].title, by[pick.y].title]);
    for (const group of groups.values()) {
      const middle = median(group.map((i) => by[pick.value].values[i])), at = [x.at(by[pick.x].values[group[0]]), y.at(by[pick.y].values[group[0]])];
      const size = [x.step - 1, -y.step - 1];
      svg.append(make("rect", { x: at[0] - size[0] / 2, y: at[1] - size[1] / 2, width: size[0], height: size[1], fill: shade(middle), "data-cell": group[0],
        "data-tip": group.length > 1 ? `${by[pick.value].title} ${short(middle)}, median of ${group.length} cells\nthe first: ${table.tips[group[0]]}` : null }));
    }
    return `${by[pick.value].title}. ${pooled(groups, fields, [pick.x, pick.y])}`;
  }
  function lineChart(svg, rows, by, fields) {
    const x = scaleOf(by[pick.x], rows, box.left, box.right), y = scaleOf(by[pick.value], rows, box.bottom, box.top);
    const rest = fields.filter((c) => c.name !== pick.x && c.name !== "n" && (c.name !== "method" || pick.of === "every method"));
    frame(svg, x, y, [by[pick.x].title, by[pick.value].title]);
    const series = grouped(rows, (i) => rest.map((c) => `${c.title} ${short(c.values[i])}`).join(", "));
    [...series].forEach(([name, mine], k) => {
      const groups = [...grouped(mine, (i) => by[pick.x].values[i])].filter(([at]) => at != null).sort(([p], [q]) => (p < q ? -1 : 1));
      const points = groups.map(([at, group]) => [x.at(at), y.at(median(group.map((i) => by[pick.value].values[i]))), group]);
      svg.append(make("path", { class: `line s${k % 7}`, d: "M" + points.map(([u, v]) => `${u.toFixed(1)} ${v.toFixed(1)}`).join("L"), "data-tip": name || null }));
      for (const [u, v, group] of points) svg.append(make("circle", { class: `dot s${k % 7}`, cx: u, cy: v, r: 4, "data-cell": group[0] }));
    });
    return `${series.size} line${series.size > 1 ? "s" : ""}, one for each ${rest.map((c) => c.title).join(", ") || "sweep"}; points are medians over the rest.`;
  }
  function scatterPlot(svg, rows, by) {
    const known = rows.filter((i) => by[pick.x].values[i] != null);
    const x = scaleOf(by[pick.x], known, box.left, box.right), y = scaleOf(by[pick.value], known, box.bottom, box.top);
    const methods = by.method ? [...new Set(by.method.values)] : [];
    frame(svg, x, y, [by[pick.x].title, by[pick.value].title]);
    for (const i of known) {
      const k = methods.indexOf(by.method?.values[i]) % 7;
      svg.append(make("circle", { class: `dot s${Math.max(k, 0)}`, cx: x.at(by[pick.x].values[i]), cy: y.at(by[pick.value].values[i]), r: 4, "data-cell": i }));
    }
    return "A point for each cell; colours are methods.";
  }
  function parallel(svg, rows, by, fields, shade) {
    const axes = [...fields, by[pick.value]], gap = (width - 120) / Math.max(axes.length - 1, 1);
    const places = axes.map((c) => scaleOf(c, rows, box.bottom, 34, !c.numeric)), shown = rows.slice(0, 300);
    for (const i of shown) {
      const points = axes.map((c, k) => (c.values[i] == null ? null : `${(60 + k * gap).toFixed(1)} ${places[k].at(c.values[i]).toFixed(1)}`)).filter(Boolean);
      svg.append(make("path", { class: "through", stroke: shade(by[pick.value].values[i]), d: "M" + points.join("L"), "data-cell": i }));
    }
    axes.forEach((c, k) => {
      svg.append(make("path", { class: "axis", d: `M${60 + k * gap} 34V${box.bottom}` }), make("text", { x: 60 + k * gap, y: 22, "text-anchor": "middle" }, c.title));
      for (const [at, text] of places[k].ticks) svg.append(make("text", { class: "halo", x: 64 + k * gap, y: at + 4 }, text));
    });
    return shown.length < rows.length ? `The first ${shown.length} of ${rows.length} cells: more lines cannot be told apart.` : "A line for each cell, coloured by the statistic.";
  }

  /* The start, printing, and live pages. */
  async function begin() {
    data = JSON.parse(one("#data").textContent);
    numbers = data.curves ? await unpack(data.curves) : null;
    table = readTable();
    document.documentElement.classList.add("scripted");
    if (cellOf("a") == null) chosen.a = data.first;
    if (cellOf("b") == null) chosen.b = null;
    prepareTable();
    operable();
    explore();
    show();
    highlight(highlighted);
    document.documentElement.dataset.ready = "true";
  }
  let unfolded = [];
  addEventListener("beforeprint", () => { unfolded = all("details:not([open])"); unfolded.forEach((part) => (part.open = true)); });
  addEventListener("afterprint", () => unfolded.forEach((part) => (part.open = false)));
  async function follow() {
    const { dataset } = document.documentElement;
    try {
      const answer = await fetch(`news?since=${dataset.version}`, { cache: "no-store" });
      const news = await answer.json();
      if (news.main) {
        const open = all("details").filter((part) => part.open).map((part) => part.id), kept = ["filter", "every", "trouble"].map((id) => [id, one("#" + id)]);
        const state = kept.map(([id, input]) => [id, input.value, input.checked]), place = scrollY;
        const sheet = new CSSStyleSheet();
        await sheet.replace(news.css);
        document.adoptedStyleSheets = [sheet];
        one("#page").innerHTML = news.main; // from this page's own server, escaped there
        one("#data").textContent = news.data;
        for (const part of all("details")) part.open = part.open || open.includes(part.id);
        for (const [id, text, checked] of state) { one("#" + id).value = text; one("#" + id).checked = checked; }
        one("#cells").classList.toggle("every", one("#every").checked);
        await begin();
        scrollTo(0, place);
        dataset.version = news.version;
      }
      one("#live").textContent = news.state;
    } catch {
      one("#live").textContent = "The command that served this page has ended; the page keeps what it shows.";
      return;
    }
    setTimeout(follow, 2000);
  }
  begin().then(() => { if (document.documentElement.dataset.version) follow(); });
})();
