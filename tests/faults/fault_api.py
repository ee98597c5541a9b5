"""The API's process, as `regraft serve api` runs it, ending with whoever started it."""

from __future__ import annotations

import os

from regraft.processes import die_with
from regraft_api.server import serve

if __name__ == "__main__":
    die_with(os.environ["FAULT_PARENT"])
    serve()
