"""The form: its fields, what fills them, and what happens when it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import gradio as gr

from gradio_ui import words
from gradio_ui.client import Service, ServiceError
from gradio_ui.examples import examples
from gradio_ui.fastest import fastest
from gradio_ui.form import ANYWHERE, MAX_IMAGES, FormChoices, FormValues, choices
from gradio_ui.script import when_there
from gradio_ui.tabs import Tabs

MAX_EXAMPLES = 8
FASTEST = "FASTEST"
"""The choice of the pool that would be done first. Not a name that a pool can have: those have no capitals."""

AS_SENT: Mapping[str, Any] = {"preprocess": False}
"""Of events that take the form's values. Gradio would hold them against what it believes to be offered (nothing after
a restart of this process) and answer with an error that nobody sees; the service names the field at fault."""

_FORMATS = (("PNG, exact", "png"), ("WebP, small", "webp"), ("JPEG", "jpeg"))
_NO_NOTICE: Mapping[str, Any] = {}


class DrawForm:
    """Builds the fields where it is made; makes sense within `gradio.Blocks` only.

    Args:
        service: Tells what can be drawn.
        tabs: Take the orders.

    Attributes:
        fields: What "use these settings" sets, in the order of `using`.
        chosen: What `fill` is asked with.
        offered: What `fill` sets.
    """

    def __init__(self, service: Service, tabs: Tabs) -> None:
        self._service, self._tabs = service, tabs
        self.prompt = gr.Textbox(
            label="Prompt",
            placeholder="What shall be drawn?",
            lines=3,
            max_lines=8,
            autofocus=True,
            elem_id="field-prompt",
        )
        with gr.Row(elem_id="usual"):
            self.size = gr.Dropdown(
                label="Size", allow_custom_value=True, elem_id="field-width", min_width=150
            )
            self.num_images = gr.Slider(
                1, MAX_IMAGES, 1, step=1, label="Pictures", elem_id="field-num_images", min_width=130
            )
        self.button = gr.Button("Draw", variant="primary", size="lg", elem_id="draw")
        self.notice = gr.HTML(
            html_template="<div></div>",
            elem_id="notice",
            apply_default_css=False,
            js_on_load=when_there(
                "const show = imagine.mountNotice(element); watch('value', () => show(props.value));"
            ),
        )
        with gr.Row(elem_id="examples"):
            self.examples = [
                gr.Button("", visible=False, size="sm", elem_classes="example") for _ in range(MAX_EXAMPLES)
            ]
        with gr.Accordion("More settings", open=False, elem_id="more"):
            self.negative = gr.Textbox(
                label="Leave out",
                info="Has an effect with guidance above 1",
                lines=1,
                elem_id="field-negative_prompt",
            )
            self.steps = gr.Slider(1, 150, 30, step=1, label="Steps", elem_id="field-num_inference_steps")
            self.guidance = gr.Slider(
                0, 30, 5, step=0.5, label="Guidance", info="0 and 1 mean none", elem_id="field-guidance_scale"
            )
            with gr.Row(elem_id="seeds"):
                self.seed = gr.Textbox(
                    label="Seed",
                    placeholder="Random each time",
                    max_lines=1,
                    elem_id="field-seed",
                    min_width=220,
                )
                self.same = gr.Button("Same again", size="sm", min_width=100)
                self.surprise = gr.Button("Surprise me", size="sm", min_width=100)
            self.scheduler = gr.Dropdown(label="Noise scheduler", elem_id="field-scheduler")
            self.model = gr.Dropdown(label="Model", visible=False, elem_id="field-model")
            self.pool = gr.Dropdown(
                [("Cheapest", ANYWHERE)], value=ANYWHERE, label="Where", elem_id="field-pool"
            )
            self.file_format = gr.Dropdown(
                list(_FORMATS), value="png", label="File format", elem_id="field-format"
            )
            self.keep = gr.Checkbox(label="Finish even if I close the page", elem_id="field-keep")
        # Filled by the browser at each click: which page it is.
        self._tab = gr.Textbox(visible=False)
        self._own_values = gr.State()
        self.chosen = [
            self.model,
            self.pool,
            self.size,
            self.steps,
            self.guidance,
            self.scheduler,
            self._own_values,
        ]
        self.offered = [
            self.size,
            self.steps,
            self.guidance,
            self.scheduler,
            self.model,
            self.pool,
            self.negative,
            self._own_values,
            *self.examples,
        ]
        self.fields = [
            self.prompt,
            self.negative,
            self.size,
            self.steps,
            self.guidance,
            self.seed,
            self.num_images,
            self.scheduler,
            self.file_format,
        ]

    def listen(self, at_once: Mapping[str, Any]) -> None:
        """Wires the form's own events.

        Args:
            at_once: Options of every event.
        """
        inputs = [
            self.prompt,
            self.negative,
            self.size,
            self.steps,
            self.guidance,
            self.seed,
            self.num_images,
            self.scheduler,
            self.pool,
            self.model,
            self.file_format,
            self.keep,
            self._tab,
        ]
        # The page listens before its order is there, so that the first preview finds it listening.
        send = "(...values) => { imagine.listen(); return [...values.slice(0, -1), imagine.tab]; }"
        for happens in (self.button.click, self.prompt.submit):
            happens(self.draw, inputs, self.notice, js=send, trigger_mode="multiple", **AS_SENT, **at_once)
        for button in self.examples:
            button.click(None, button, self.prompt, js="(text) => text")
        self.same.click(None, None, self.seed, js="() => imagine.lastSeed()")
        self.surprise.click(None, None, self.seed, js="() => ''")
        for choice in (self.model, self.pool):
            choice.input(self.fill, self.chosen, self.offered, **AS_SENT, **at_once)

    async def draw(
        self,
        prompt: str,
        negative: str,
        size: str,
        steps: float,
        guidance: float,
        seed: str,
        num_images: float,
        scheduler: str,
        pool: str,
        model: str,
        file_format: str,
        keep: bool,
        tab_id: str,
    ) -> Mapping[str, Any]:
        """Sends the form; returns what is to be said of it, nothing when all is well."""
        try:
            values = FormValues(
                prompt=prompt,
                negative_prompt=negative or "",
                size=size or "",
                steps=steps,
                guidance=guidance,
                seed=seed or "",
                num_images=num_images,
                scheduler=scheduler or "",
                pool=ANYWHERE if pool == FASTEST else pool or ANYWHERE,
                model=model or "",
                file_format=file_format,
            )
            order = values.order()
            if pool == FASTEST and (quickest := fastest(await self._service.pools(), order)):
                order = replace(values, pool=quickest).order()
            await self._tabs.get(tab_id).draw(order, keep=bool(keep))
        except ServiceError as error:
            return asdict(words.notice(error))
        return _NO_NOTICE

    async def fill(
        self,
        model: str | None,
        pool: str | None,
        size: str | None = None,
        steps: float | None = None,
        guidance: float | None = None,
        scheduler: str | None = None,
        own_values: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """What the service can draw now, with the model's own values for what nobody has changed.

        Nothing changes while the service is away.
        """
        try:
            pools = await self._service.pools()
        except ServiceError:
            pools = []
        wanted_pool = pool or ANYWHERE
        own = choices(pools, model or "", wanted_pool)
        if not own.model:
            return [gr.skip()] * len(self.offered)
        now = {"size": size, "steps": steps, "guidance": guidance, "scheduler": scheduler}
        if own_values is None and model == own.model:
            own_values = own.own_values()  # this process is younger than the page
        offer = own.keeping(own_values, now)

        def value(name: str) -> dict[str, Any]:
            # What stays is not sent: it may have been changed while this was asked for.
            offered = getattr(offer, name)
            return {} if offered == now[name] else {"value": offered}

        return [
            gr.Dropdown(choices=list(offer.sizes), **value("size")),
            gr.Slider(maximum=offer.max_steps, **value("steps")),
            gr.Slider(interactive=offer.guidance_possible, **value("guidance")),
            gr.Dropdown(choices=list(offer.schedulers), **value("scheduler")),
            gr.Dropdown(choices=list(offer.models), value=offer.model, visible=len(offer.models) > 1),
            gr.Dropdown(choices=self._places(offer), value=wanted_pool),
            gr.Textbox(interactive=offer.guidance_possible),
            own.own_values(),
            *self._example_buttons(examples(offer.model)),
        ]

    def using(self, settings: Mapping[str, Any]) -> list[Any]:
        """Values of `fields` from a picture's or a job's settings, whatever they hold: a browser sends them."""

        def text(name: str) -> str:
            value = settings.get(name)
            return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""

        def number(name: str) -> Any:
            value = settings.get(name)
            return value if isinstance(value, int | float) and not isinstance(value, bool) else gr.skip()

        size = f"{text('width')}x{text('height')}" if text("width") and text("height") else gr.skip()
        file_format = text("format")
        return [
            text("prompt"),
            text("negative_prompt"),
            size,
            number("num_inference_steps"),
            number("guidance_scale"),
            text("seed"),
            settings["num_images"] if isinstance(settings.get("num_images"), int) else 1,
            text("scheduler") or gr.skip(),
            file_format if file_format in {value for _, value in _FORMATS} else gr.skip(),
        ]

    def _places(self, offer: FormChoices) -> list[tuple[str, str]]:
        places = [("Cheapest that is free in time", ANYWHERE)]
        if offer.speeds_known:
            places.append(("Fastest", FASTEST))
        return [*places, *offer.pools]

    def _example_buttons(self, prompts: Sequence[str]) -> list[Any]:
        shown = list(prompts[:MAX_EXAMPLES])
        shown += [""] * (MAX_EXAMPLES - len(shown))
        return [gr.Button(text, visible=bool(text)) for text in shown]
