"""Running the API with uvicorn. Imports what it needs when it runs, so that `regraft --help` stays fast."""

from __future__ import annotations


def serve() -> None:
    """Serve the REST API on REGRAFT_API_HOST and REGRAFT_API_PORT until stopped."""
    import uvicorn

    from regraft.logs import log_to_stderr
    from regraft.settings import Settings
    from regraft_api.app import create_app

    settings = Settings()
    log_to_stderr(settings)
    uvicorn.run(create_app(settings), host=settings.api_host, port=settings.api_port, log_config=None)
