"""Ways of batching under load: plain diffusers in turn, static batches, and this service's engine.

Run ``make bench-batching`` (``ARGS="--help"`` for the options) or ``python -m bench.batching``. It prints tables and
writes ``results.json`` and one PNG per workload. A run that was stopped goes on where it was when started again with
the same options; ``--replot`` only reads.

What is compared, on the same arrivals and in one process:

- ``serial``: stock `StableDiffusionXLPipeline`, one request after another.
- ``greedy``: stock; takes the oldest request and all waiting ones that can share a call with it (same size, steps and
  guidance), up to a largest batch.
- ``windowed``: the same, but the oldest request waits up to a window for the batch to fill.
- ``engine``: this service's engine, a batch anew for each denoising step.

``greedy`` and ``windowed`` get, for each workload, the settings that carry the most load in a queue model fed with
batch times measured on this machine.

The sides of pictures are small by default (256 pixels on a CPU, 512 on a GPU): there one picture does not fill the
device, which is where batching matters at all, and a point has enough requests in bounded time. ``--side`` asks for
others. The small number of requests has a price: in a short trace the queue of an overloaded server has little time to
grow, which flatters all servers alike, and a point with fewer than 100 requests has its slowest one as p99. Raise
``--requests`` for a p99 that deserves the name, and keep the machine free of other work.

How to read it: *load* is the rate of arrivals over what ``serial`` could do at most (1 over the mean time of a picture
alone); latency counts from the scheduled arrival to the picture's RGB bytes. The target is 3 times the longest
request's time alone on plain diffusers. *Requests/s at equal p99* is the highest rate that keeps the 99th percentile
within the target. Latencies come with the 90 % interval of a block bootstrap over
the run's own requests, which knows nothing of other arrivals: vary ``--seed`` for that.
"""
