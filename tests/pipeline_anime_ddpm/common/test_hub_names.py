"""Names of repositories are checked before any work is done for them."""

import pytest

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.common.hub_names import check_repository


@pytest.mark.parametrize("name", ["you/faces", "faces", "you/anime-faces_64.v2"])
def test_names_of_the_hub_are_accepted(name):
    check_repository(name, "--hub_model_id")


@pytest.mark.parametrize("name", ["a/b/c", "you/my faces", "you/-faces", "you/" + "f" * 97])
def test_other_names_are_refused_with_their_flag(name):
    with pytest.raises(UserError, match=r"^--hub_model_id '.*' is not a valid repository name; give `you/name`"):
        check_repository(name, "--hub_model_id")
