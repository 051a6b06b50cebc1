"""Google Drive as an fsspec filesystem on its REST API, version 3."""
