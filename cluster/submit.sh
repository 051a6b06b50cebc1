#!/usr/bin/env bash
# Submits a job to a Ray cluster and follows it: cluster/submit.sh pipeline --source gs://BUCKET/organs --output gs://...
# cluster/submit.py says what it takes from the environment, and what its exit code means.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3
export PYTHONPATH=$root
exec "$python" -m cluster.submit "$@"
