# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Draw, vary, repaint and interpolate images with a pixel-space diffusion model, under any diffusers scheduler.

`save_pretrained` puts one file beside the weights, for `DiffusionPipeline.from_pretrained(...)` with
`trust_remote_code=True` and without the package. It is one file, since diffusers 0.42.1 copies the modules that a
remote pipeline imports, but not those that they import, and into one flat package: of two models with different
helpers, both would run the first one's. It imports torch, NumPy, Pillow and diffusers alone.

Notation: the state of a sampler is x = a x_0 + b ε of an image x_0 and unit noise ε, with σ = b / a (Karras et al.,
2206.00364). Over √(a² + b²) it is the network's input, with √ᾱ = a / √(a² + b²), whatever the scheduler's own scale.
"""
