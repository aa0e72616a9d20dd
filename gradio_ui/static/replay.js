// A picture of the service, dropped in: its parameters are read, and it is drawn again. Nothing is stored anywhere.
"use strict";
imagine.mountReplay = (element, trigger) => {
  const { h } = imagine;
  const MAX_BYTES = 20_000_000;
  const input = h("input", { type: "file", id: "replay-file", accept: "image/png,image/jpeg,image/webp", onchange: () => take(input.files[0]) });
  const zone = h("label", { class: "zone", for: "replay-file" }, h("strong", {}, "Drop a picture of this service here, or choose a file"),
    h("span", {}, "PNG, JPEG or WebP. Its parameters are read from the file; it is not stored."), input);
  const result = h("div", { class: "replayed" });
  const pair = h("dialog", { class: "viewer pair", "aria-label": "The picture and its replay" });
  element.replaceChildren(zone, result);
  document.body.append(pair);
  for (const kind of ["dragenter", "dragover"]) zone.addEventListener(kind, (event) => { event.preventDefault(); zone.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) zone.addEventListener(kind, () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });

  const say = (text) => h("p", { class: "notice", role: "alert" }, text);
  let shown = [];
  let latest = 0; // of the files: an earlier one may be read later
  function url(blob) {
    const made = URL.createObjectURL(blob);
    shown.push(made);
    return made;
  }

  async function take(file) {
    if (!file) return;
    const turn = ++latest;
    shown.forEach((old) => URL.revokeObjectURL(old));
    shown = [];
    input.value = "";
    if (file.size > MAX_BYTES) {
      result.replaceChildren(say(`This file has ${Math.round(file.size / 1e6)} MB; at most 20 can be read.`));
      return;
    }
    let values;
    let problem = "The file could not be read: the page has no connection.";
    try {
      const answer = await fetch(new URL("read", imagine.root), { method: "POST", body: file });
      if (answer.status === 413) problem = "The file could not be read: it is larger than what lies between here and the service lets through.";
      if (!answer.ok) throw new Error(answer.statusText);
      values = await answer.json();
    } catch {
      if (turn === latest) result.replaceChildren(say(problem));
      return;
    }
    if (turn !== latest) return;
    if (!values.prompt) {
      result.replaceChildren(say("This file does not say how it was drawn: it is not of this service, or was changed since."));
      return;
    }
    const image = h("img", { alt: `Dropped picture: ${values.prompt}`, src: url(file) });
    const answer = h("div", { "aria-live": "polite" });
    const again = h("button", { type: "button", class: "strong", onclick: () => replay(file, values, again, answer) }, "Draw it again");
    const use = h("button", { type: "button", class: "quiet", onclick: () => trigger("use", values) }, "Use these settings");
    result.replaceChildren(h("div", { class: "stage" }, image),
      h("div", { class: "facts" }, h("dl", {}, ...imagine.rows(values).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))])),
        h("p", { class: "actions" }, again, use), answer));
    again.focus();
  }

  async function replay(file, values, button, place) {
    button.disabled = true;
    place.replaceChildren(h("p", {}, "Drawing"));
    try {
      const answer = await fetch(new URL("replay", imagine.root), { method: "POST", body: file });
      if (!answer.ok) {
        const problem = await answer.json().catch(() => ({}));
        place.replaceChildren(say(problem.text ?? "It could not be drawn again."));
        return;
      }
      const drawn = await answer.blob();
      const [left, right] = [url(file), url(drawn)];
      const verdict = await difference(left, right);
      const cost = answer.headers.get("x-cost");
      const rows = imagine.rows({ ...values, pool: answer.headers.get("x-pool") ?? undefined, cost: cost === null ? undefined : Number(cost) });
      const compare = () => imagine.comparison(pair, [
        { title: "File", image: h("img", { alt: "The file", src: left }), rows: imagine.rows(values) },
        { title: "Replay", image: h("img", { alt: "Drawn again", src: right }), rows },
      ], verdict);
      const name = imagine.fileName({ ...values, id: `x.${values.format ?? "png"}` });
      place.replaceChildren(h("p", { class: "verdict" }, verdict),
        h("img", { class: "again", alt: `Drawn again: ${values.prompt}`, src: right }),
        h("p", { class: "actions" }, h("button", { type: "button", class: "quiet", onclick: compare }, "Side by side"),
          h("a", { class: "quiet", href: right, download: name }, "Download")));
    } catch {
      place.replaceChildren(say("It could not be drawn again: the page has no connection."));
    } finally {
      button.disabled = false;
    }
  }

  async function pixels(address) {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = h("canvas", { width: image.naturalWidth, height: image.naturalHeight });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  }
  async function difference(left, right) {
    const [a, b] = await Promise.all([pixels(left), pixels(right)]);
    if (a.width !== b.width || a.height !== b.height) return "The sizes differ.";
    let most = 0;
    for (let index = 0; index < a.data.length; index++) most = Math.max(most, Math.abs(a.data[index] - b.data[index]));
    if (most === 0) return "The same picture, pixel for pixel.";
    return `No value of any pixel differs by more than ${most} of 255.`;
  }
};
