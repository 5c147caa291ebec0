"""Where results are published: known to be there before anything is computed for it."""

from collections.abc import Callable
from typing import Any

from snaketune.core.errors import ConfigError, DataError
from snaketune.publish.hub import check_hub, is_hub
from snaketune.storage.object_storage import connect, listed, require_package


def check_destination(url: str | None, connect: Callable[[], Any] = connect) -> None:
    """Refuse a destination that cannot be asked what it holds.

    Raises:
        ConfigError: naming the setting and what is wrong with it.
    """
    if not url:
        raise ConfigError(
            "paths.publish is null: set it to hf://owner/name or s3://bucket/path, where `publish` uploads to."
        )
    if is_hub(url):
        return check_hub(url)
    require_package(f"paths.publish: {url}")
    try:
        any(listed(connect(), f"{url.rstrip('/')}/"))
    except (ConfigError, DataError) as error:
        raise ConfigError(f"paths.publish: {error}") from None
