"""The networks that look at images: feature extractors and perceptual distances."""
