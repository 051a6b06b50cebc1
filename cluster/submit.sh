#!/usr/bin/env bash
# Submits a job to a Ray cluster and follows it: cluster/submit.sh pipeline --source gs://BUCKET/organs --output gs://...
#
# RAY_API_SERVER_ADDRESS is the Jobs API (http://127.0.0.1:8265 through `ray dashboard ray-cluster.yaml`), and
# RAY_AUTH_TOKEN or ~/.ray/auth_token the cluster's token. Exits with the job's own code.
set -euo pipefail
job=${1:?which job? one of sample convert train evaluate predict report pipeline}
shift
root=$(cd "$(dirname "$0")/.." && pwd)
[ -f "$root/jobs/$job.py" ] || { echo "error: there is no job $job" >&2; exit 2; }
export RAY_API_SERVER_ADDRESS=${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}
export RAY_AUTH_MODE=token
exec ray job submit --working-dir "$root" -- python -m "jobs.$job" "$@"
