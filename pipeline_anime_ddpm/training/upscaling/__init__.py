"""Training of an upscaler: its crops, its network, its flags, and what it shows of itself."""
