"""`anime-ddpm evaluate`, `stats` and `compare`."""

import pytest

from pipeline_anime_ddpm.cli import main


def test_command_prints_what_it_measured_beside_the_floor(settings, tiny_pipeline, capsys):
    given = [f"--model={tiny_pipeline}", *(f"--{name}={value}" for name, value in settings.items())]
    main(["evaluate", *given, "--sampler=ddim"])
    told = capsys.readouterr().out
    assert f"24 images of {tiny_pipeline} against 40 of" in told
    assert "FD-tiny-vit: " in told
    assert "[floor " in told
    assert "± " in told
    assert "(10 subsets of 12)" in told
    assert "memorised: 0 of 24 images are nearer than" in told
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *given, "--num_images=5"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: --num_images 5 is too few for kid, which needs 12; take more, or lower --kid_subset_size.\n"
    )


def test_resolution_of_statistics_is_at_least_a_pixel(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["stats", "--resolution=0", "--dataset=faces"])
    assert stop.value.code == 2 and "--resolution is 0; give 1 or more." in capsys.readouterr().err
