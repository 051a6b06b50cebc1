"""Google Cloud Storage through gcsfs; `STORAGE_EMULATOR_HOST` redirects it to another server."""

import os

from fsspec import AbstractFileSystem


def gcs_filesystem() -> AbstractFileSystem:
    """The filesystem for `gs://`, with Application Default Credentials, or anonymous against an emulator."""
    # Read when gcsfs is imported; without it each operation on a server other than Google's waits 60 s.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    from gcsfs import GCSFileSystem

    token = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else "google_default"
    return GCSFileSystem(token=token, use_listings_cache=False)
