"""Every setting of every job, typed and closed. The text under a field is its `--help`.

Settings come from default < `--config recipe.yaml` < flag (see `lib.runs.command_line`).
"""
