// What all parts of the page share: who this tab is, what the browser remembers, and the drawings' events.
"use strict";
window.imagine = (() => {
  const root = new URL("../", document.currentScript.src);
  const MAX_HISTORY = 100;
  const listeners = { drawing: [], history: [], connection: [] };
  const memory = {};

  // Storage can be switched off or full; then the page remembers until it is closed.
  function read(storage, key, absent) {
    try {
      const text = window[storage].getItem(key);
      return text === null ? (memory[key] ?? absent) : JSON.parse(text);
    } catch {
      return memory[key] ?? absent;
    }
  }
  function write(storage, key, value) {
    memory[key] = value;
    try {
      window[storage].setItem(key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  }

  function tabId() {
    let id = read("sessionStorage", "imagine-tab", "");
    if (!/^[0-9a-f]{32}$/.test(id)) {
      id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
      write("sessionStorage", "imagine-tab", id);
    }
    return id;
  }
  const tab = tabId();

  function on(kind, callback) {
    listeners[kind].push(callback);
    if (kind === "drawing") early.splice(0).forEach(callback);
  }
  const early = []; // drawings that were told of before anybody listened
  function tell(kind, value) {
    if (kind === "drawing" && !listeners.drawing.length) early.push(value);
    listeners[kind].forEach((callback) => callback(value));
  }

  // --- history: of all tabs of this browser, newest first ---
  const history = () => read("localStorage", "imagine-history", []);
  function saveHistory(entries) {
    entries = entries.slice(0, MAX_HISTORY);
    // Full storage: the oldest go first.
    while (!write("localStorage", "imagine-history", entries) && entries.length > 4) {
      entries = entries.slice(0, Math.floor(entries.length * 0.75));
    }
    tell("history", entries);
  }
  function addToHistory(fresh) {
    const known = new Set(history().map((entry) => entry.id));
    const added = fresh.filter((entry) => !known.has(entry.id));
    if (added.length) saveHistory([...added, ...history()]);
    return added.length > 0;
  }
  const removeFromHistory = (id) => saveHistory(history().filter((entry) => entry.id !== id));
  window.addEventListener("storage", (event) => {
    if (event.key === "imagine-history") tell("history", history());
  });

  // --- drawings ---
  const drawings = new Map(); // those that have not ended, by id
  const ended = new Set(read("sessionStorage", "imagine-ended", [])); // their end was shown in this tab
  const ENDS = ["finished", "failed", "cancelled"];

  function remember(view) {
    const pending = read("localStorage", "imagine-pending", {});
    if (view.keep && !ENDS.includes(view.state)) pending[view.id] = view.settings;
    else if (view.id in pending) delete pending[view.id];
    else return;
    write("localStorage", "imagine-pending", pending);
  }

  function onDrawing(view) {
    remember(view);
    if (!ENDS.includes(view.state)) {
      drawings.set(view.id, view);
    } else {
      if (ended.has(view.id)) return;
      drawings.delete(view.id);
      ended.add(view.id);
      write("sessionStorage", "imagine-ended", [...ended].slice(-200));
      if (view.state === "finished") addToHistory(view.entries);
    }
    tell("drawing", view);
  }

  let source = null;
  let opened = 0;
  let wanted = 0; // when it was last asked to listen
  function listen() {
    wanted = Date.now();
    if (source && source.readyState !== EventSource.CLOSED) return;
    source = new EventSource(new URL(`tabs/${tab}/events`, root));
    source.addEventListener("open", () => {
      tell("connection", true);
      // The page's own server was away: it may not know what is being drawn any more.
      if (opened++ && drawings.size) attach([...drawings.values()]);
    });
    source.addEventListener("drawing", (event) => onDrawing(JSON.parse(event.data)));
    source.addEventListener("quiet", () => {
      source.close();
      // It was sent before the server knew of an order that is on its way.
      if (Date.now() - wanted < 10000) listen();
    });
    source.addEventListener("error", () => {
      if (drawings.size) tell("connection", false);
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
    });
  }
  async function attach(jobs) {
    const some = jobs.slice(0, 16).map(({ id, settings, keep }) => ({ id, settings, keep }));
    try {
      const answer = await fetch(new URL(`tabs/${tab}/attach`, root), {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(some),
      });
      if (answer.ok) (await answer.json()).gone.forEach(forget);
      else if (answer.status !== 422) throw new Error(answer.statusText); // the service, or this page's own server, is away
    } catch {
      setTimeout(() => attach(jobs), 3000);
      return;
    }
    listen();
    if (jobs.length > 16) attach(jobs.slice(16));
  }
  // The service does not know a job any more.
  function forget(id) {
    const view = drawings.get(id) ?? { id, keep: false };
    if (drawings.has(id)) onDrawing({ ...view, state: "failed", trouble: false, words: "The service does not know it any more." });
    else remember(view);
  }
  const cancel = (id) => fetch(new URL(`tabs/${tab}/jobs/${id}`, root), { method: "DELETE" });

  window.addEventListener("pagehide", (event) => {
    // A page that the browser only puts aside may come back; its connection tells.
    if (!event.persisted) navigator.sendBeacon(new URL(`tabs/${tab}/leave`, root));
  });
  // At once, before Gradio has loaded: a page that was reloaded is soon heard of again.
  function begin() {
    listen();
    const pending = Object.entries(read("localStorage", "imagine-pending", {}));
    if (pending.length) attach(pending.map(([id, settings]) => ({ id, settings, keep: true })));
  }

  // --- small tools for building elements ---
  function h(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }
  function announce(text) {
    let region = document.getElementById("imagine-announcements");
    if (!region) {
      region = h("div", { id: "imagine-announcements", class: "sr-only", role: "status", "aria-live": "polite" });
      document.body.append(region);
    }
    region.textContent = text;
  }

  // --- how things are written ---
  const SCHEDULERS = {
    euler: "Euler", euler_a: "Euler a", ddim: "DDIM", dpmpp_2m: "DPM++ 2M",
    dpmpp_2m_karras: "DPM++ 2M Karras", unipc: "UniPC", lcm: "LCM",
  };
  const seconds = (value) => (value < 10 ? `${Number(value.toPrecision(2))} s` : `${Math.round(value)} s`);
  function money(value) {
    if (!value) return "0";
    return value < 0.01 ? value.toPrecision(2).replace(/e-?\d+$/, "") && Number(value.toPrecision(2)).toFixed(
      Math.min(10, 1 - Math.floor(Math.log10(value)))) : value.toFixed(2);
  }
  function rows(entry) {
    const stages = Object.entries(entry.seconds ?? {}).filter(([, value]) => value >= 0.0005);
    const all = [
      ["Prompt", entry.prompt],
      ["Leave out", entry.negative_prompt],
      ["Seed", entry.seed],
      ["Size", entry.width && `${entry.width} × ${entry.height}`],
      ["Steps", entry.num_inference_steps],
      ["Guidance", entry.guidance_scale],
      ["Noise scheduler", SCHEDULERS[entry.scheduler] ?? entry.scheduler],
      ["Model", entry.model],
      ["Drawn on", entry.pool && (entry.accelerator ? `${entry.pool} (${entry.accelerator})` : entry.pool)],
      ["Format", entry.format && entry.format.toUpperCase()],
      ["Cost", entry.cost === undefined ? undefined : money(entry.cost)],
      ["Stages", stages.map(([name, value]) => `${name} ${seconds(value)}`).join(", ")],
    ];
    return all.filter(([, value]) => value !== undefined && value !== null && value !== "");
  }
  function fileName(entry) {
    const words = entry.prompt.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40);
    const ending = entry.id.slice(entry.id.lastIndexOf(".") + 1);
    return `${words || "picture"}-${entry.seed}.${ending}`;
  }
  function pictureUrl(entry, download = false) {
    const url = new URL(`pictures/${entry.id}`, root);
    if (download) url.searchParams.set("download", fileName(entry));
    return url.href;
  }

  begin();
  return {
    root, tab, on, listen, cancel, drawings, history, removeFromHistory, saveHistory, h, announce, rows, fileName,
    pictureUrl, lastSeed: () => String(history()[0]?.seed ?? ""),
  };
})();
