"""The dispatcher's process, as `regraft serve dispatcher` runs it, ending with whoever started it."""

from __future__ import annotations

import os

from regraft.dispatcher import serve
from regraft.processes import die_with
from regraft.settings import Settings

if __name__ == "__main__":
    die_with(os.environ["FAULT_PARENT"])
    serve(Settings())
