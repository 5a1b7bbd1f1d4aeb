"""`anime-ddpm ema --choose` takes the average of the lowest KID."""

import pytest
import torch

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler, cli
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.evaluation import ema_choice
from pipeline_anime_ddpm.runs.posthoc import reconstruct


@pytest.fixture
def kids(averaged_run, monkeypatch):
    """KID by candidate, which the test decides, instead of a measurement."""
    (averaged_run / "training_config.yaml").write_text("train_data_dir: faces\n")
    given: dict[str, float] = {}

    def evaluate(config, pipeline, show_progress):
        assert (config.dataset, config.metrics, config.floor) == ("faces", "kid", False)
        name = config.output_dir.rpartition("/")[2]
        return {"metrics": {"kid": {"value": next(k for n, k in given.items() if n == name), "std": 0.1}}}

    monkeypatch.setattr(ema_choice.recipe, "evaluate", evaluate)
    monkeypatch.setattr(ema_choice, "LENGTHS", (0.05, 0.1))
    return given


OWN = "the-runs-own-ema"


def test_best_length_is_chosen_and_saved(averaged_run, kids, capsys):
    kids |= {OWN: 0.5, "sigma-rel-0.05": 0.2, "sigma-rel-0.1": 0.3}
    cli.main(["ema", str(averaged_run), "--choose"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["  sigma_rel 0.05: KID 0.2 ± 0.1", "  sigma_rel 0.1: KID 0.3 ± 0.1",
                         f"{averaged_run / 'chosen'}: sigma_rel 0.05, without guidance."]  # fmt: skip
    pipe, wished = AnimeDDPMPipeline.from_pretrained(averaged_run / "chosen"), reconstruct(averaged_run, 0.05).weights
    assert all(torch.equal(parameter, wished[name]) for name, parameter in pipe.unet.named_parameters())
    with pytest.raises(UserError, match="chosen exists already"):
        next(ema_choice.choose_average(averaged_run))


def test_run_s_own_average_may_be_the_best_and_a_lead_within_chance_is_said(averaged_run, kids, tmp_path, capsys):
    kids |= {OWN: 0.2, "sigma-rel-0.05": 0.21, "sigma-rel-0.1": 0.3}
    cli.main(["ema", str(averaged_run), "--choose"])
    own, chosen = (AnimeDDPMPipeline.from_pretrained(folder).unet for folder in (averaged_run, averaged_run / "chosen"))
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), chosen.parameters(), strict=True))
    assert "within" not in capsys.readouterr().out
    kids["sigma-rel-0.05"] = 0.15
    cli.main(["ema", str(averaged_run), "--choose", "--output_dir", str(tmp_path / "other")])
    assert (
        "sigma_rel 0.05, without guidance. Its lead over the run's own EMA, 0.05, is within" in capsys.readouterr().out
    )


@pytest.mark.parametrize(("kid", "scale"), [(0.05, 1.25), (0.15, 1.0)])
def test_guidance_is_recommended_only_if_it_is_clearly_better(averaged_run, kids, tiny_unet, kid, scale):
    unet = AnimeDDPMPipeline.from_pretrained(averaged_run).unet
    AnimeDDPMPipeline(unet, AnimeNoiseScheduler(num_train_timesteps=50), tiny_unet(in_channels=5)).save_pretrained(
        averaged_run
    )
    kids |= {OWN: 0.2, "sigma-rel-0.05": 0.3, "sigma-rel-0.1": 0.3}
    kids |= {f"{OWN}-guidance-{guided:g}": value for guided, value in ((1.25, kid), (1.5, 0.4))}
    cli.main(["ema", str(averaged_run), "--choose"])
    assert AnimeDDPMPipeline.from_pretrained(averaged_run / "chosen").config.default_guidance_scale == scale
