// What is being drawn: one card a job, changed in place so that the keyboard's focus stays where it is.
"use strict";
imagine.mountJobs = (element, trigger) => {
  const { h } = imagine;
  const list = h("ul", { class: "drawings" });
  const lost = h("p", { class: "notice", role: "status", hidden: true },
    "The page has lost its connection. It goes on by itself when it is back.");
  element.replaceChildren(lost, list);
  const cards = new Map();

  function card(view) {
    const state = h("p", { class: "state" });
    const bar = h("progress", { max: 1, "aria-label": `Progress of ${view.prompt}` });
    const stop = h("button", { type: "button", class: "quiet", "aria-label": `Stop ${view.prompt}`, onclick: stopIt }, "Stop");
    const previews = h("div", { class: "previews" });
    const item = h("li", { class: "drawing", "data-job": view.id },
      previews,
      h("div", { class: "about" }, h("p", { class: "prompt" }, view.prompt), bar, state, h("p", { class: "actions" }, stop)));
    async function stopIt() {
      stop.disabled = true;
      stop.textContent = "Stopping";
      let words = "";
      try {
        const answer = await imagine.cancel(view.id);
        if (!answer.ok) words = (await answer.json()).text;
      } catch {
        words = "The page has no connection.";
      }
      if (words) {
        state.textContent = `It was not stopped. ${words}`;
        stop.disabled = false;
        stop.textContent = "Stop";
      }
    }
    for (let index = 0; index < view.num_images; index++) previews.append(h("div", { class: "preview" }));
    return { item, state, bar, stop, previews, shown: {} };
  }

  function update(view) {
    let known = cards.get(view.id);
    if (view.state === "finished") {
      if (known) known.item.remove();
      cards.delete(view.id);
      imagine.announce(`Done: ${view.prompt}`);
      return;
    }
    if (!known) {
      known = card(view);
      cards.set(view.id, known);
      list.prepend(known.item);
    }
    known.item.dataset.state = view.state;
    known.item.classList.toggle("trouble", view.trouble);
    if (known.state.textContent !== view.words) known.state.textContent = view.words;
    known.bar.value = view.progress;
    for (const [index, preview] of Object.entries(view.previews)) {
      if (known.shown[index] === preview) continue;
      known.shown[index] = preview;
      const place = known.previews.children[index];
      if (!place) continue;
      if (!place.firstChild) place.append(h("img", { alt: `Preview of ${view.prompt}` }));
      place.firstChild.src = `data:image/png;base64,${preview}`;
    }
    if (view.state === "failed" || view.state === "cancelled") end(known, view);
  }

  function end(known, view) {
    known.bar.remove();
    imagine.announce(`${view.words}: ${view.prompt}`);
    const away = () => {
      known.item.remove();
      cards.delete(view.id);
    };
    const again = h("button", { type: "button", class: "quiet", onclick: () => {
      trigger("use", view.settings);
      away();
    } }, "Use these settings");
    const dismiss = h("button", { type: "button", class: "quiet", "aria-label": `Dismiss ${view.prompt}`, onclick: away }, "Dismiss");
    const hadFocus = document.activeElement === known.stop;
    known.stop.replaceWith(again, dismiss);
    if (hadFocus) dismiss.focus();
  }

  imagine.on("drawing", update);
  imagine.on("connection", (there) => { lost.hidden = there; });
};

// One sentence about what was refused, said aloud, with the field at fault in focus and the wait counted down.
imagine.mountNotice = (element) => {
  let timer = 0;
  return (notice) => {
    clearInterval(timer);
    element.replaceChildren();
    if (!notice || !notice.text) return;
    const wait = imagine.h("span", { class: "wait" });
    element.append(imagine.h("p", { class: "notice", role: "alert" }, notice.text, " ", wait));
    const field = notice.field && document.querySelector(
      `#field-${CSS.escape(notice.field)} :is(textarea, input)`);
    if (field) field.focus();
    let left = notice.retry_after_s;
    if (left) {
      const count = () => {
        wait.textContent = left > 0 ? `Try again in ${left} s.` : "Try again now.";
        if (left-- <= 0) clearInterval(timer);
      };
      count();
      timer = setInterval(count, 1000);
    }
  };
};

// Whether there is anybody to draw; says "ready" when the service has come (back), so that the form is filled anew.
imagine.mountStatus = (element, trigger) => {
  const dot = imagine.h("span", { class: "dot", "aria-hidden": "true" });
  const words = imagine.h("span", { class: "words" }, "Looking for the service");
  element.replaceChildren(imagine.h("p", { class: "status", role: "status" }, dot, words));
  let ready = null;
  async function look() {
    let now;
    try {
      now = await (await fetch(new URL("health", imagine.root))).json();
    } catch {
      now = { ready: false, words: "This page has lost its connection" };
    }
    const news = words.textContent !== now.words;
    if (news) words.textContent = now.words;
    element.dataset.ready = String(now.ready);
    // Another pool that can draw now is news too.
    if (now.ready && (ready === false || (ready && news))) trigger("ready");
    ready = now.ready;
    setTimeout(look, now.ready ? 15000 : 2000);
  }
  look();
};
