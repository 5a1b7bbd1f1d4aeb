"""Statistics of real images are computed ahead."""

from pipeline_anime_ddpm.cli import main

STATS_SETTINGS = ("dataset", "metrics", "num_images", "extractor", "lpips", "kid_subset_size", "kid_subsets", "device")


def test_stats_computes_ahead_and_cache_ls_and_rm_know_of_it(settings, tmp_path, capsys):
    cache = str(tmp_path / "cache")
    flags = [f"--{name}={value}" for name, value in settings.items() if name in STATS_SETTINGS]
    command = ["stats", "--resolution", "16", "--cache_dir", cache, *flags]
    main(command)
    told = capsys.readouterr().out
    assert "40 images of the validation split" in told
    assert "Floor: 24 images of the train split against them:" in told
    assert "FD-tiny-vit: " in told
    assert "12" in told
    assert "from 40 validation images to the nearest of 60 training images" in told
    main([*command, "--no-floor"])
    assert "Floor" not in capsys.readouterr().out
    main(["cache", "ls", "--cache_dir", cache])
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 7  # decoded images of two splits, features of two, distances of two kinds, the total
    assert any("features of the validation split" in line for line in listed)
    name = next(line.split()[0] for line in listed if "distances to training images" in line)
    main(["cache", "rm", name, "--cache_dir", cache])
    assert f"Deleted {name}" in capsys.readouterr().out
    main(["cache", "rm", "--all", "--cache_dir", cache])
    main(["cache", "ls", "--cache_dir", cache])
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 caches")
