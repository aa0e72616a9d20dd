"""What a CUDA device makes of SDXL: this service's pipeline with each of its options, and diffusers beside it.

Run ``make bench-cuda`` (``ARGS="--help"`` for the options) or ``python -m bench.cuda``. Without a device it says so and
ends well; ``--device cpu --tiny`` sends a tiny model through the same code on the CPU, to see that all of it works.

``python -m bench.cuda.layers`` is the quick one: the networks alone, by diffusers' layers and by this service's, in a
minute and without a model's files.

It writes ``results.json`` after each measurement, so that a run that was stopped, or that ``--budget-s`` ended, goes on
where it was when it is started again. Everything measured is one *subject* (this service with some options, or
diffusers) doing one *task*; each subject runs in a process of its own, so that none finds another's memory, compiled
kernels or settings. Subjects:

- ``ours``: the defaults of ``cuda`` in ``docs/settings.md``; ``ours-compiled`` with ``compile`` ``whole``, and once
  more for each row count; one more for each option turned off, or on where it is off by default.
- ``plain``: stock `StableDiffusionXLPipeline` in float16, as most people write it; it decodes in float32.
- ``tuned``: stock in bfloat16 with fused projections, channels_last, and UNet and VAE compiled with CUDA graphs, as
  diffusers' own guide to speed has it.
- ``reference``: stock in float32, from which the others' errors are counted.

Weights are random with SDXL base's exact shapes, which decides time and memory; what each option does to pictures is
shown as the difference in such a model's pictures, and says little about how a trained one's would look. Times of steps
and decodes come from CUDA events, of pictures and throughput from the clock, from text to RGB bytes with a text never
seen before; the first calls of each shape are left out. Correctness is the relative error of the last latents, for
every noise scheduler, guided or not: this service must be no farther from the float32 reference than stock diffusers in
16 bits is (by a margin for chance).
"""
