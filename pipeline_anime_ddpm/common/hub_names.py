"""Names of repositories on the Hub, refused before anything is trained or gathered for them."""

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .errors import UserError


def check_repository(name: str, flag: str) -> None:
    """Raise a `UserError` for a name that the Hub does not take."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(
            f"{flag} {name!r} is not a valid repository name; give `you/name`, of at most 96 letters, digits "
            "and single - _ or . inside."
        ) from error
