"""Fixtures of this folder."""

import pytest
from control_parts import Oracle, picture, quiet, scheduler_of

from pipeline_anime_ddpm import AnimeDDPMPipeline


@pytest.fixture(scope="module")
def oracle(tiny_unet):
    """Factory of a pipeline whose network knows the image `picture(seed)`, in [-1, 1]."""

    def make(name: str, kind: str = "epsilon", seed: int = 0, guide: int | None = None) -> AnimeDDPMPipeline:
        networks = []
        for of in (seed, guide):
            network = None if of is None else Oracle(**dict(tiny_unet().config))
            if network is not None:
                network.known, network.kind = picture(of) * 2 - 1, kind
            networks.append(network)
        scheduler = scheduler_of(name, prediction_type=kind)
        return quiet(AnimeDDPMPipeline(networks[0], scheduler, networks[1]))

    return make


@pytest.fixture(scope="module")
def make_pipe(tiny_unet):
    def make(name="AnimeNoise:dpmsolver++", guide=None, **unet) -> AnimeDDPMPipeline:
        return quiet(AnimeDDPMPipeline(tiny_unet(**unet), scheduler_of(name), guide))

    return make
