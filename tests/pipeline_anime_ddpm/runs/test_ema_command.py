"""`anime-ddpm ema` writes pipelines that load and draw, and answers each mistake with one sentence."""

import pytest
import torch

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler, cli
from pipeline_anime_ddpm.runs.posthoc import reconstruct


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(["ema", *map(str, arguments)])
    assert caught.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]  # before it stands the bar of loading
    assert error.startswith("error: ")
    return error


def test_complete_pipeline_is_written_for_each_length(averaged_run, capsys):
    cli.main(["ema", str(averaged_run), "--sigma_rel", "0.12", "0.07"])
    lines = capsys.readouterr().out.splitlines()
    for line, length in zip(lines, ("0.12", "0.07"), strict=True):
        folder = averaged_run / f"ema-{length}"
        assert line.startswith(f"{folder}: sigma_rel {length} at 80 images; relative error ")
        pipe = AnimeDDPMPipeline.from_pretrained(folder)
        made = reconstruct(averaged_run, float(length)).weights
        assert all(torch.equal(parameter, made[name]) for name, parameter in pipe.unet.named_parameters())
        pipe.set_progress_bar_config(disable=True)
        assert pipe(1, num_inference_steps=2).images[0].size == (16, 16)
        assert (folder / "pipeline_anime_ddpm.py").is_file()
    trained = AnimeDDPMPipeline.from_pretrained(averaged_run).unet.conv_in.weight
    assert not torch.equal(trained, pipe.unet.conv_in.weight)
    assert not list(averaged_run.glob(".*"))


def test_output_folder_and_the_time_can_be_chosen(averaged_run, tmp_path, capsys):
    (tmp_path / "there").mkdir()  # an empty folder is as good as none
    cli.main(
        ["ema", str(averaged_run), "--sigma_rel", "0.05", "--images", "40", "--output_dir", str(tmp_path / "there")]
    )
    assert (tmp_path / "there" / "model_index.json").is_file()
    cli.main(["ema", str(averaged_run), "--sigma_rel", "0.05", "0.06", "--output_dir", str(tmp_path / "new" / "ones")])
    assert sorted(p.name for p in (tmp_path / "new" / "ones").iterdir()) == ["ema-0.05", "ema-0.06"]
    first, second, third = capsys.readouterr().out.splitlines()
    assert "at 40 images; relative error 0.00%." in first
    assert "at 80 images" in second and "at 80 images" in third


def test_length_far_from_the_stored_ones_is_called_inexact(averaged_run, capsys):
    cli.main(["ema", str(averaged_run), "--sigma_rel", "0.01"])
    assert "closer --ema_sigma_rels" in capsys.readouterr().out


def test_existing_files_are_never_overwritten(averaged_run, capsys):
    assert "exists already" in refused(capsys, averaged_run, "--sigma_rel", 0.1, "--output_dir", averaged_run)
    (averaged_run / "ema-0.2").write_text("mine")
    assert "ema-0.2 exists already" in refused(capsys, averaged_run, "--sigma_rel", 0.1, 0.2)
    assert not (averaged_run / "ema-0.1").exists(), "all folders are looked at before the first is written"
    assert (averaged_run / "ema-0.2").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sigma_rel", "0.3"], "--sigma_rel is 0.3; give a number above 0 and below 0.2887"),
        (["--sigma_rel", "0.1", "--images", "10"], "has averages of 20 to 80, give one"),
        (["--sigma_rel", "0.1", "--images", "81"], "has averages of 20 to 80, give one"),
    ],
)
def test_numbers_out_of_range_are_refused(averaged_run, capsys, arguments, says):
    assert says in refused(capsys, averaged_run, *arguments)
    assert not (averaged_run / "ema-0.1").exists()


def test_runs_without_averages_or_pipeline_or_with_another_s_are_refused(averaged_run, tiny_unet, tmp_path, capsys):
    assert "train with --ema_sigma_rels 0.05,0.10" in refused(capsys, tmp_path / "none", "--sigma_rel", 0.1)
    AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler()).save_pretrained(averaged_run)
    assert "snapshots of another network" in refused(capsys, averaged_run, "--sigma_rel", 0.1)
    (averaged_run / "unet" / "config.json").write_text("{")
    assert "cannot be loaded" in refused(capsys, averaged_run, "--sigma_rel", 0.1)
    (averaged_run / "model_index.json").unlink()
    assert "has no pipeline" in refused(capsys, averaged_run, "--sigma_rel", 0.1)


def test_flags_that_do_not_fit_choose_are_refused(averaged_run, capsys):
    assert "Give --sigma_rel, one or more EMA lengths, or --choose" in refused(capsys, averaged_run)
    assert "are for --choose" in refused(capsys, averaged_run, "--sigma_rel", 0.1, "--dataset", "faces")
    assert "omit --images" in refused(capsys, averaged_run, "--choose", "--images", 40)
    assert "which images it was trained on; give --dataset" in refused(capsys, averaged_run, "--choose")
