"""Flags of `anime-ddpm publish` that exclude each other are refused before any work."""

import pytest
from odd_sets import png


@pytest.mark.parametrize("arguments, said", [
    ([], "Give --repo_id"),
    (["--dry_run", "--private"], "--private needs --repo_id"),
    (["--dry_run", "--space", "me/demo"], "--space needs --repo_id"),
    (["--repo_id", "me/a b", "--dry_run"], "--repo_id 'me/a b' is not a valid repository name"),
    (["--repo_id", "me/a", "--space", "me/b--c", "--dry_run"], "--space 'me/b--c' is not a valid repository name"),
    (["--repo_id", "me/a", "--space", "me/b", "--export_stock"], "omit one of the two"),
    (["--output_dir", "{run}"], "is not empty"),
    (["--dry_run", "--card", "{run}/loss.png"], "cannot be read"),
])  # fmt: skip
def test_flags_that_cannot_be_meant(tmp_path, publish, arguments, said):
    (tmp_path / "loss.png").write_bytes(png())
    assert said in publish(tmp_path, *(argument.format(run=tmp_path) for argument in arguments))
