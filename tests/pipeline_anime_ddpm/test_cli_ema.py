"""`anime-ddpm ema` writes pipelines that load and draw, and answers each mistake with one sentence."""

import pytest
import torch

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler, cli
from pipeline_anime_ddpm.evaluation import ema_choice
from pipeline_anime_ddpm.runs.averages import WeightAverage, power_decay
from pipeline_anime_ddpm.runs.posthoc import reconstruct
from pipeline_anime_ddpm.runs.snapshots import save_snapshot


@pytest.fixture
def run(tiny_unet, tmp_path):
    """The output folder of a run of 40 steps at 2 images, with snapshots every 10."""
    folder = tmp_path / "run"
    unet = tiny_unet(in_channels=5)
    names = [name for name, _ in unet.named_parameters()]
    averages = {length: WeightAverage(unet.parameters(), power_decay(length)) for length in (0.05, 0.1)}
    torch.manual_seed(0)
    for step in range(1, 41):
        with torch.no_grad():
            for parameter in unet.parameters():
                parameter += 0.01 * torch.randn(parameter.shape)
        for length, average in averages.items():
            average.update(unet.parameters())
            if step % 10 == 0:
                save_snapshot(folder, average, names, images=2 * step, sigma_rel=length)
    AnimeDDPMPipeline(unet, AnimeNoiseScheduler(num_train_timesteps=50)).save_pretrained(folder)
    return folder


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(["ema", *map(str, arguments)])
    assert caught.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]  # before it stands the bar of loading
    assert error.startswith("error: ")
    return error


def test_complete_pipeline_is_written_for_each_length(run, capsys):
    cli.main(["ema", str(run), "--sigma_rel", "0.12", "0.07"])
    lines = capsys.readouterr().out.splitlines()
    for line, length in zip(lines, ("0.12", "0.07"), strict=True):
        folder = run / f"ema-{length}"
        assert line.startswith(f"{folder}: sigma_rel {length} at 80 images; relative error ")
        pipe = AnimeDDPMPipeline.from_pretrained(folder)
        made = reconstruct(run, float(length)).weights
        assert all(torch.equal(parameter, made[name]) for name, parameter in pipe.unet.named_parameters())
        pipe.set_progress_bar_config(disable=True)
        assert pipe(1, num_inference_steps=2).images[0].size == (16, 16)
        assert (folder / "pipeline_anime_ddpm.py").is_file()
    trained = AnimeDDPMPipeline.from_pretrained(run).unet.conv_in.weight
    assert not torch.equal(trained, pipe.unet.conv_in.weight)
    assert not list(run.glob(".*"))


def test_output_folder_and_the_time_can_be_chosen(run, tmp_path, capsys):
    (tmp_path / "there").mkdir()  # an empty folder is as good as none
    cli.main(["ema", str(run), "--sigma_rel", "0.05", "--images", "40", "--output_dir", str(tmp_path / "there")])
    assert (tmp_path / "there" / "model_index.json").is_file()
    cli.main(["ema", str(run), "--sigma_rel", "0.05", "0.06", "--output_dir", str(tmp_path / "new" / "ones")])
    assert sorted(p.name for p in (tmp_path / "new" / "ones").iterdir()) == ["ema-0.05", "ema-0.06"]
    first, second, third = capsys.readouterr().out.splitlines()
    assert "at 40 images; relative error 0.00%." in first
    assert "at 80 images" in second and "at 80 images" in third


def test_length_far_from_the_stored_ones_is_called_inexact(run, capsys):
    cli.main(["ema", str(run), "--sigma_rel", "0.01"])
    assert "closer --ema_sigma_rels" in capsys.readouterr().out


def test_existing_files_are_never_overwritten(run, capsys):
    assert "exists already" in refused(capsys, run, "--sigma_rel", 0.1, "--output_dir", run)
    (run / "ema-0.2").write_text("mine")
    assert "ema-0.2 exists already" in refused(capsys, run, "--sigma_rel", 0.1, 0.2)
    assert not (run / "ema-0.1").exists(), "all folders are looked at before the first is written"
    assert (run / "ema-0.2").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sigma_rel", "0.3"], "--sigma_rel is 0.3; give a number above 0 and below 0.2887"),
        (["--sigma_rel", "0.1", "--images", "10"], "has averages of 20 to 80, give one"),
        (["--sigma_rel", "0.1", "--images", "81"], "has averages of 20 to 80, give one"),
    ],
)
def test_numbers_out_of_range_are_refused(run, capsys, arguments, says):
    assert says in refused(capsys, run, *arguments)
    assert not (run / "ema-0.1").exists()


def test_runs_without_averages_or_pipeline_or_with_another_s_are_refused(run, tiny_unet, tmp_path, capsys):
    assert "train with --ema_sigma_rels 0.05,0.10" in refused(capsys, tmp_path / "none", "--sigma_rel", 0.1)
    AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler()).save_pretrained(run)
    assert "snapshots of another network" in refused(capsys, run, "--sigma_rel", 0.1)
    (run / "unet" / "config.json").write_text("{")
    assert "cannot be loaded" in refused(capsys, run, "--sigma_rel", 0.1)
    (run / "model_index.json").unlink()
    assert "has no pipeline" in refused(capsys, run, "--sigma_rel", 0.1)


@pytest.fixture
def kids(run, monkeypatch):
    """KID by candidate, which the test decides, instead of a measurement."""
    (run / "training_config.yaml").write_text("train_data_dir: faces\n")
    given: dict[str, float] = {}

    def evaluate(config, pipeline, show_progress):
        assert (config.dataset, config.metrics, config.floor) == ("faces", "kid", False)
        name = config.output_dir.rpartition("/")[2]
        return {"metrics": {"kid": {"value": next(k for n, k in given.items() if n == name), "std": 0.1}}}

    monkeypatch.setattr(ema_choice.recipe, "evaluate", evaluate)
    monkeypatch.setattr(ema_choice, "LENGTHS", (0.05, 0.1))
    return given


OWN = "the-runs-own-ema"


def test_best_length_is_chosen_and_saved(run, kids, capsys):
    kids |= {OWN: 0.5, "sigma-rel-0.05": 0.2, "sigma-rel-0.1": 0.3}
    cli.main(["ema", str(run), "--choose"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["  sigma_rel 0.05: KID 0.2 ± 0.1", "  sigma_rel 0.1: KID 0.3 ± 0.1",
                         f"{run / 'chosen'}: sigma_rel 0.05, without guidance."]  # fmt: skip
    pipe, wished = AnimeDDPMPipeline.from_pretrained(run / "chosen"), reconstruct(run, 0.05).weights
    assert all(torch.equal(parameter, wished[name]) for name, parameter in pipe.unet.named_parameters())
    assert "chosen exists already" in refused(capsys, run, "--choose")


def test_run_s_own_average_may_be_the_best_and_a_lead_within_chance_is_said(run, kids, tmp_path, capsys):
    kids |= {OWN: 0.2, "sigma-rel-0.05": 0.21, "sigma-rel-0.1": 0.3}
    cli.main(["ema", str(run), "--choose"])
    own, chosen = (AnimeDDPMPipeline.from_pretrained(folder).unet for folder in (run, run / "chosen"))
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), chosen.parameters(), strict=True))
    assert "within" not in capsys.readouterr().out
    kids["sigma-rel-0.05"] = 0.15
    cli.main(["ema", str(run), "--choose", "--output_dir", str(tmp_path / "other")])
    assert (
        "sigma_rel 0.05, without guidance. Its lead over the run's own EMA, 0.05, is within" in capsys.readouterr().out
    )


@pytest.mark.parametrize(("kid", "scale"), [(0.05, 1.25), (0.15, 1.0)])
def test_guidance_is_recommended_only_if_it_is_clearly_better(run, kids, tiny_unet, kid, scale):
    unet = AnimeDDPMPipeline.from_pretrained(run).unet
    AnimeDDPMPipeline(unet, AnimeNoiseScheduler(num_train_timesteps=50), tiny_unet(in_channels=5)).save_pretrained(run)
    kids |= {OWN: 0.2, "sigma-rel-0.05": 0.3, "sigma-rel-0.1": 0.3}
    kids |= {f"{OWN}-guidance-{guided:g}": value for guided, value in ((1.25, kid), (1.5, 0.4))}
    cli.main(["ema", str(run), "--choose"])
    assert AnimeDDPMPipeline.from_pretrained(run / "chosen").config.default_guidance_scale == scale


def test_flags_that_do_not_fit_choose_are_refused(run, capsys):
    assert "Give --sigma_rel, one or more EMA lengths, or --choose" in refused(capsys, run)
    assert "are for --choose" in refused(capsys, run, "--sigma_rel", 0.1, "--dataset", "faces")
    assert "omit --images" in refused(capsys, run, "--choose", "--images", 40)
    assert "which images it was trained on; give --dataset" in refused(capsys, run, "--choose")
