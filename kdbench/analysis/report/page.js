"use strict";
// Sorts and filters leaderboards, and shows single cells. Text from records goes into text nodes only.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const report = document.getElementById("report");
  const article = document.getElementById("cell");
  const header = document.querySelector("body > header");
  const nav = document.querySelector("nav");
  const title = document.title;

  const element = (tag, properties = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };

  // Leaderboards: missing values come last in both orders, and equal values keep their order.
  const compare = (kind, sign) => (first, second) => {
    const [a, b] = [first.key, second.key];
    if (a === "" || b === "") return (a === "") - (b === "");
    return sign * (kind === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0);
  };

  const makeSortable = (head) => {
    const button = element("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const body = head.closest("table").tBodies[0];
      const rows = [...body.rows].map((row) => ({ row, key: row.cells[head.cellIndex].dataset.sort }));
      rows.sort(compare(head.dataset.kind, order === "ascending" ? 1 : -1));
      body.append(...rows.map(({ row }) => row));
    });
  };

  const makeFilter = (form) => {
    const rows = [...document.getElementById(form.dataset.table).tBodies[0].rows];
    const [search, status] = [form.querySelector("input[type=search]"), form.querySelector("[role=status]")];
    const families = [...form.querySelectorAll("input[type=checkbox]")];
    const filter = () => {
      const words = search.value.trim().toLowerCase();
      const kept = new Set(families.filter((box) => box.checked).map((box) => box.value));
      let number = 0;
      for (const row of rows) {
        const name = row.querySelector("th[scope=row]").textContent.toLowerCase();
        row.hidden = !(name.includes(words) && kept.has(row.dataset.family));
        number += row.hidden ? 0 : 1;
      }
      status.textContent = `${number} of ${rows.length} methods shown`;
    };
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    filter();
  };

  const makeMore = (place) => {
    const button = element("button", { type: "button" }, place.textContent);
    place.replaceChildren(button);
    button.addEventListener("click", () => {
      const links = data.more[place.dataset.entry].map(([id, seed]) =>
        element("a", { href: `#cell/${id}`, "aria-label": data.cells[id][0] }, String(seed)));
      place.replaceWith(...links);
      links[0].focus();
    });
  };

  // A cell.
  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const asText = (value) => (value === null ? "–" : typeof value === "string" ? value : JSON.stringify(value));
  const flat = (object, prefix = "") => Object.entries(object || {}).flatMap(([name, value]) =>
    isObject(value) ? flat(value, `${prefix}${name}.`) : [[`${prefix}${name}`, value]]);

  const table = (name, rows) => {
    if (!rows.length) return "";
    const kind = rows.every(([, value]) => typeof value === "number" || value === null) ? "number" : "value";
    const body = element("tbody", {}, ...rows.map(([label, value]) => element("tr", {},
      element("th", { scope: "row", class: "label" }, label), element("td", { class: kind }, asText(value)))));
    return element("section", {}, element("h3", {}, name),
      element("div", { class: "scroll", role: "region", "aria-label": name, tabindex: "0" },
        element("table", {}, element("caption", { class: "heard" }, name), body)));
  };

  const vector = (tag, properties, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };

  const chart = (name, epochs, values) => {
    const points = epochs.map((epoch, place) => [epoch, values[place]]).filter(([, value]) => value !== null);
    if (points.length < 2) return "";
    const heights = points.map(([, value]) => value);
    const [low, high, first, last] = [Math.min(...heights), Math.max(...heights), points[0][0], points.at(-1)[0]];
    const x = (epoch) => 46 + (300 * (epoch - first)) / (last - first || 1);
    const y = (value) => 130 - (118 * (value - low)) / (high - low || 1);
    const line = { stroke: "var(--rule)", "stroke-width": 1 };
    const text = { fill: "currentColor", "font-size": 11 };
    const end = { ...text, "text-anchor": "end" };
    const path = points.map(([epoch, value]) => `${x(epoch).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    return element("div", {}, element("p", { class: "chart-name" }, name), vector("svg",
      { viewBox: "0 0 352 152", role: "img", "aria-label":
        `${name}: from ${heights[0]} in epoch ${first} to ${heights.at(-1)} in epoch ${last}, between ${low} and ${high}` },
      vector("line", { x1: 46, x2: 346, y1: 12, y2: 12, ...line }),
      vector("line", { x1: 46, x2: 346, y1: 130, y2: 130, ...line }),
      vector("text", { x: 40, y: 16, ...end }, String(+high.toPrecision(3))),
      vector("text", { x: 40, y: 134, ...end }, String(+low.toPrecision(3))),
      vector("text", { x: 46, y: 148, ...text }, String(first)),
      vector("text", { x: 346, y: 148, ...end }, `epoch ${last}`),
      vector("polyline", { points: path, fill: "none", stroke: "var(--accent)", "stroke-width": 2 })));
  };

  const build = (id) => {
    const back = (section) => element("p", {}, element("a", { href: `#${section}`, class: "back" }, "Back to the report"));
    if (!Object.hasOwn(data.cells, id)) {
      const heading = element("h2", { id: "cell-title", tabindex: "-1" }, `Cell ${id} is not in this report`);
      article.replaceChildren(back("main"), heading);
      return heading;
    }
    const [name, section, full, parts, names, values, folder, curve] = data.cells[id];
    const [config, environment, settings, chosen, source, overrides, teacher] = parts.map((part) => data.pool[part]);
    const heading = element("h2", { id: "cell-title", tabindex: "-1" }, name);
    const groups = new Map();
    data.pool[names].forEach(([group, label], place) => {
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push([label, values[place]]);
    });
    const changed = Object.keys(chosen || {});
    const rows = flat(settings).map(([label, value]) => [changed.includes(label) ? `${label} (changed)` : label, value]);
    const charts = curve
      ? [chart("top-1 on the test set, %", curve[0], curve[1]), chart("training loss", curve[0], curve[2])]
      : [element("p", { class: "quiet" }, "No curve was read for this cell.")];
    article.replaceChildren(
      back(`${section}-cells`), heading,
      element("p", { class: "quiet" }, "Cell ", element("code", {}, full), " in ", element("code", {}, folder)),
      element("div", { class: "charts" }, ...charts),
      element("div", { class: "sides" },
        ...[...groups].map(([group, lines]) => table(group, lines)),
        table("Settings", [...rows, ["source", source]]),
        table("Teacher", flat(teacher)),
        table("Changed rules", flat(overrides)),
        table("Environment", flat(environment)),
        table("Configuration", flat(config))));
    return heading;
  };

  let opener = null;
  let position = 0;
  const route = () => {
    const match = /^#cell\/([0-9a-f]+)$/.exec(location.hash);
    if (match) {
      if (article.hidden) [opener, position] = [document.activeElement, window.scrollY];
      for (const part of [report, header, nav]) part.hidden = true;
      const heading = build(match[1]);
      article.hidden = false;
      document.title = `${heading.textContent} · ${title}`;
      window.scrollTo({ top: 0, behavior: "instant" });
      heading.focus({ preventScroll: true });
    } else if (!article.hidden) {
      for (const part of [report, header, nav]) part.hidden = false;
      article.hidden = true;
      article.replaceChildren();
      document.title = title;
      const target = location.hash && document.getElementById(location.hash.slice(1));
      if (opener && opener !== document.body && opener.isConnected) {
        opener.focus({ preventScroll: true });
        window.scrollTo({ top: position, behavior: "instant" });
      } else if (target) {
        target.scrollIntoView({ behavior: "instant" });
      }
    }
  };

  for (const head of document.querySelectorAll("th[data-kind]")) makeSortable(head);
  for (const form of document.querySelectorAll("form.controls")) makeFilter(form);
  for (const place of document.querySelectorAll(".more")) makeMore(place);
  window.addEventListener("hashchange", route);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !article.hidden) article.querySelector("a.back").click();
  });
  window.addEventListener("beforeprint", () => {
    for (const details of report.querySelectorAll("details")) details.open = true;
  });
  route();
})();
