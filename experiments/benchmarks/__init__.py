"""Programs that measure what the losses and the data cost.

`losses` times them on the device at hand and asks the compiler for their
memory; `tpu_compilation` compiles them for TPUs that need not be there. `data`
times readers of videos, and loops that load while a device computes.
"""
