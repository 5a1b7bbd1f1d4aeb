# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""What is an image: files that are whole, opened upright, in sRGB and the right mode, as tensors."""
