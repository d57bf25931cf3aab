"""Programs that measure what the losses cost.

`losses` times them on the device at hand and asks the compiler for their
memory; `tpu_compilation` compiles them for TPUs that need not be there.
"""
