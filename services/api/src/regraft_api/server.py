"""Running the API with uvicorn. Imports what it needs when it runs, so that `regraft --help` stays fast."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


def serve() -> None:
    """Serve the REST API on REGRAFT_API_HOST and REGRAFT_API_PORT until stopped."""
    import gc

    import uvicorn

    from regraft.keyfile import is_loopback
    from regraft.logs import log_to_stderr
    from regraft.settings import Settings
    from regraft_api.app import create_app

    settings = Settings()
    log_to_stderr(settings)
    if not is_loopback(settings.api_host):
        log.warning("listening on %s: keys pass in the clear unless a proxy adds TLS", settings.api_host)
    if not settings.roots:
        log.warning("REGRAFT_ALLOWED_ROOTS is empty: jobs may name no corpus and no checkpoint on a file system")
    # The door writes a line for each request, with its key; uvicorn's own would say it again.
    app = create_app(settings)
    # What is there now stays: looking through it for garbage took a tenth of a second, in which every request waited.
    gc.collect()
    gc.freeze()
    uvicorn.run(app, host=settings.api_host, port=settings.api_port, log_config=None, access_log=False)
