// Pictures of this browser: a grid, one at a time, two side by side. They are kept in the browser's own storage.
"use strict";
imagine.mountGallery = (element, trigger) => {
  const { h } = imagine;
  const grid = h("ul", { class: "grid" });
  const empty = h("p", { class: "empty" }, "Pictures you draw appear here and stay in this browser.");
  const compare = h("button", { type: "button", class: "quiet", onclick: () => openComparison() }, "Compare");
  const clear = h("button", { type: "button", class: "quiet", onclick: forgetAll }, "Forget all");
  const bar = h("div", { class: "bar" }, h("h2", {}, "Pictures"), compare, clear);
  const viewer = h("dialog", { class: "viewer", "aria-label": "Picture" });
  const pair = h("dialog", { class: "viewer pair", "aria-label": "Two pictures side by side" });
  element.replaceChildren(bar, empty, grid);
  document.body.append(viewer, pair);
  let entries = [];
  const chosen = []; // ids, two at most

  // The service keeps pictures for a day or so; the small copy stays.
  function picture(entry, attributes = {}) {
    const image = h("img", { width: entry.width, height: entry.height, alt: entry.prompt, ...attributes });
    image.addEventListener("error", () => {
      image.dataset.gone = "";
      if (entry.thumbnail) image.src = entry.thumbnail;
    }, { once: true });
    image.src = imagine.pictureUrl(entry);
    return image;
  }

  function tile(entry) {
    const pick = h("button", {
      type: "button", class: "pick", "aria-pressed": "false", title: "Compare with another",
      "aria-label": `Compare: ${entry.prompt}, seed ${entry.seed}`, onclick: () => choose(entry.id),
    }, "⇄");
    const open = h("button", {
      type: "button", class: "open", "aria-label": `Open: ${entry.prompt}, seed ${entry.seed}`,
      onclick: () => show(entry.id),
    }, picture(entry, { loading: "lazy", alt: "" }));
    if (entry.thumbnail) open.style.backgroundImage = `url(${entry.thumbnail})`;
    return h("li", { "data-id": entry.id }, open, pick);
  }

  function render(fresh) {
    entries = fresh;
    const old = new Map([...grid.children].map((item) => [item.dataset.id, item]));
    const items = entries.map((entry) => old.get(entry.id) ?? tile(entry));
    for (const [id, item] of old) if (!items.includes(item)) { item.remove(); unchoose(id); }
    items.forEach((item, index) => { if (grid.children[index] !== item) grid.insertBefore(item, grid.children[index] ?? null); });
    empty.hidden = entries.length > 0;
    clear.hidden = entries.length === 0;
    compare.hidden = entries.length < 2;
    label();
  }

  // An image does not say why it could not be loaded.
  async function whyAbsent(entry) {
    const answer = await fetch(imagine.pictureUrl(entry)).catch(() => null);
    return answer?.status === 404
      ? "The service no longer keeps the full picture. Its settings and seed draw it again."
      : "The full picture cannot be had now, this is a small copy. Open it again when the service is back.";
  }

  // --- one picture ---
  let current = null;
  function show(id) {
    const entry = entries.find((known) => known.id === id);
    if (!entry) { viewer.close(); return; }
    current = id;
    const place = entries.indexOf(entry);
    const step = (by) => show(entries[place + by]?.id ?? id);
    const image = picture(entry);
    const gone = h("p", { class: "notice", hidden: true });
    image.addEventListener("error", async () => {
      gone.textContent = await whyAbsent(entry);
      gone.hidden = false;
    }, { once: true });
    const button = (text, action, more = {}) => h("button", { type: "button", class: "quiet", onclick: action, ...more }, text);
    viewer.replaceChildren(
      h("div", { class: "actions top" },
        button("Newer", () => step(-1), { disabled: place === 0, "data-step": "-1" }),
        button("Older", () => step(1), { disabled: place === entries.length - 1, "data-step": "1" }),
        button("Close", () => viewer.close(), { autofocus: true })),
      h("div", { class: "one" }, h("div", { class: "stage" }, image), h("div", { class: "facts" },
        gone,
        facts(imagine.rows(entry)),
        h("p", { class: "actions" },
          h("a", { class: "quiet", href: imagine.pictureUrl(entry, true), download: imagine.fileName(entry) }, "Download"),
          button("Use these settings", () => { viewer.close(); use(entry); }),
          button("Compare", () => { viewer.close(); choose(id); }),
          button("Forget", () => {
            const next = entries[place + 1] ?? entries[place - 1];
            imagine.removeFromHistory(id);
            if (next) show(next.id); else viewer.close();
          })))));
    if (!viewer.open) viewer.showModal();
  }
  viewer.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: "-1", ArrowRight: "1" }[event.key];
    const button = by && viewer.querySelector(`[data-step="${by}"]:not(:disabled)`);
    if (button) { button.click(); viewer.querySelector(`[data-step="${by}"]:not(:disabled)`)?.focus(); }
  });
  for (const dialog of [viewer, pair]) {
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }
  viewer.addEventListener("close", () => {
    grid.querySelector(`[data-id="${CSS.escape(current ?? "")}"] .open`)?.focus();
  });

  function use(entry) {
    trigger("use", entry);
    document.querySelector("#field-prompt textarea")?.focus();
  }
  function facts(rows) {
    return h("dl", {}, ...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
  }

  // --- two pictures ---
  function choose(id) {
    const at = chosen.indexOf(id);
    if (at >= 0) chosen.splice(at, 1); else chosen.push(id);
    if (chosen.length > 2) chosen.shift();
    label();
    if (at < 0 && chosen.length === 2) openComparison();
    else imagine.announce(chosen.length ? "Choose a second picture to compare" : "No picture is chosen");
  }
  function unchoose(id) {
    const at = chosen.indexOf(id);
    if (at >= 0) chosen.splice(at, 1);
  }
  function label() {
    for (const item of grid.children) {
      item.querySelector(".pick").setAttribute("aria-pressed", String(chosen.includes(item.dataset.id)));
    }
    compare.textContent = chosen.length === 1 ? "Compare: choose a second" : "Compare";
    compare.disabled = chosen.length !== 2;
  }
  function openComparison() {
    const two = chosen.map((id) => entries.find((entry) => entry.id === id));
    if (two.length !== 2 || two.includes(undefined)) return;
    imagine.comparison(pair, two.map((entry) => ({ image: picture(entry), rows: imagine.rows(entry) })));
  }

  function forgetAll() {
    if (clear.dataset.sure === undefined) {
      clear.dataset.sure = "";
      clear.textContent = "Really forget all?";
      setTimeout(() => { delete clear.dataset.sure; clear.textContent = "Forget all"; }, 4000);
      return;
    }
    imagine.saveHistory([]);
    document.querySelector("#field-prompt textarea")?.focus();
  }

  imagine.on("history", render);
  render(imagine.history());
};

// Fills and opens a dialog with two pictures, and says in which settings they differ.
imagine.comparison = (dialog, sides, verdict = null) => {
  const { h } = imagine;
  const names = [...new Set(sides.flatMap((side) => side.rows.map(([name]) => name)))];
  const value = (side, name) => String(side.rows.find(([known]) => known === name)?.[1] ?? "");
  const table = h("table", {},
    h("thead", {}, h("tr", {}, h("td"), h("th", { scope: "col" }, sides[0].title ?? "Left"), h("th", { scope: "col" }, sides[1].title ?? "Right"))),
    h("tbody", {}, ...names.map((name) => {
      const [a, b] = sides.map((side) => value(side, name));
      return h("tr", { class: a === b ? "" : "differs" }, h("th", { scope: "row" }, name, a === b ? null : h("span", { class: "sr-only" }, " (differs)")),
        h("td", {}, a), h("td", {}, b));
    })));
  dialog.replaceChildren(
    h("div", { class: "actions top" }, h("button", { type: "button", class: "quiet", autofocus: true, onclick: () => dialog.close() }, "Close")),
    h("div", { class: "sides" }, ...sides.map((side) => h("div", { class: "stage" }, side.image))),
    h("div", { class: "facts" }, verdict ? h("p", { class: "verdict" }, verdict) : null, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Settings of both" }, table)));
  dialog.showModal();
};
