"""Files beside the code are found in a clone and after an installation."""

import sysconfig

from pipeline_anime_ddpm.common import assets


def test_clone_uses_its_own_files():
    assert assets.find_asset("model_card/card.md.jinja") == assets.ROOT / "model_card" / "card.md.jinja"


def test_installation_uses_the_files_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "ROOT", tmp_path / "site-packages")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    assert assets.find_asset("model_card/card.md.jinja") == tmp_path / "data/share/anime-ddpm/card.md.jinja"
