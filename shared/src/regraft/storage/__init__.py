"""Where artifacts live. An artifact is a folder that exists when its `manifest.json` verifies."""

from regraft.storage.drafts import draft_folder, remove_leftovers
from regraft.storage.local import local_path, to_uri
from regraft.storage.manifest import FileEntry, Manifest, file_sha256, read_manifest, rewrite_manifest, verify
from regraft.storage.mirror import Mirror, is_remote
from regraft.storage.publish import DRAFTS, Draft, is_published, publish

__all__ = [
    "DRAFTS",
    "Draft",
    "FileEntry",
    "Manifest",
    "Mirror",
    "draft_folder",
    "file_sha256",
    "is_published",
    "is_remote",
    "local_path",
    "publish",
    "read_manifest",
    "remove_leftovers",
    "rewrite_manifest",
    "to_uri",
    "verify",
]
