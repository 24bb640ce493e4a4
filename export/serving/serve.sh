#!/usr/bin/env bash
# Starts TensorFlow Serving in a container; see README.md beside this file.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: bash serve.sh MODEL_BASE [options]

Serves the highest numbered version in MODEL_BASE as the model "a2net": gRPC on port 8500, REST and metrics on 8501.

  MODEL_BASE             folder with one folder per version: MODEL_BASE/1/saved_model.pb, MODEL_BASE/2/...
  --enable_batching      join requests that arrive together (read batching_parameters.txt first)
  --grpc_port=8500       port of this machine for gRPC
  --rest_port=8501       port of this machine for REST and for /monitoring/prometheus/metrics
  --listen=127.0.0.1     address of this machine; 0.0.0.0 for every network it is on (there is no password)
  --image=IMAGE          container image; default tensorflow/serving:latest (latest-gpu for a GPU)
  --memory=8g            memory limit of the container: a small request can ask for gigabytes; none lifts it
  --gpus=all             GPUs of the container; default: none
  --engine=NAME          docker or podman; default: the first of them that is installed
  --print                print the command instead of running it

The server stays in the foreground; Ctrl-C stops it.
USAGE
}

fail() {
  echo "error: $*" >&2
  exit 1
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
base="" batching="" grpc_port=8500 rest_port=8501 listen=127.0.0.1
image="tensorflow/serving:latest" memory=8g gpus="" engine="" print_only=""

for argument in "$@"; do
  case "$argument" in
    -h | --help)
      usage
      exit 0
      ;;
    --enable_batching) batching=yes ;;
    --grpc_port=*) grpc_port="${argument#*=}" ;;
    --rest_port=*) rest_port="${argument#*=}" ;;
    --listen=*) listen="${argument#*=}" ;;
    --image=*) image="${argument#*=}" ;;
    --memory=*) memory="${argument#*=}" ;;
    --gpus=*) gpus="${argument#*=}" ;;
    --engine=*) engine="${argument#*=}" ;;
    --print) print_only=yes ;;
    -*) fail "unknown option $argument; bash serve.sh --help lists all" ;;
    *)
      [[ -z "$base" ]] || fail "one MODEL_BASE expected, found '$base' and '$argument'"
      base="$argument"
      ;;
  esac
done

if [[ -z "$base" ]]; then
  usage >&2
  exit 2
fi
[[ -d "$base" ]] || fail "$base: no such folder"
for port in "$grpc_port" "$rest_port"; do
  [[ "$port" =~ ^[0-9]+$ ]] || fail "port '$port' is not a number"
done

# The server waits in silence for a first version, so an empty or misplaced folder is found here.
if [[ -e "$base/saved_model.pb" ]]; then
  fail "$base is itself a SavedModel; move it into a numbered folder below a base: BASE/1/saved_model.pb"
fi
shopt -s nullglob
versions=()
for model in "$base"/*/saved_model.pb; do
  version="$(basename "$(dirname "$model")")"
  if [[ "$version" =~ ^[0-9]+$ ]]; then
    versions+=("$version")
  fi
done
[[ ${#versions[@]} -gt 0 ]] || fail "$base: no version in it; expected $base/1/saved_model.pb or another number"

if [[ -z "$engine" ]]; then
  engine="$(command -v docker || command -v podman || true)"
  [[ -n "$engine" || -n "$print_only" ]] || fail "neither docker nor podman is installed"
  engine="$(basename "${engine:-docker}")"
fi

run=("$engine" run --rm --init
  --publish "$listen:$grpc_port:8500" --publish "$listen:$rest_port:8501"
  --volume "$(cd "$base" && pwd):/models/a2net:ro" --volume "$here:/serving:ro")
[[ "$memory" == none ]] || run+=(--memory "$memory" --memory-swap "$memory") # the same: no swap beside it
[[ -z "$gpus" ]] || run+=(--gpus "$gpus")
run+=("$image"
  --model_config_file=/serving/models.config --monitoring_config_file=/serving/monitoring.config
  --file_system_poll_wait_seconds=10 --rest_api_timeout_in_ms=300000)
[[ -z "$batching" ]] || run+=(--enable_batching=true --batching_parameters_file=/serving/batching_parameters.txt)

echo "$base has version(s) ${versions[*]}, the highest is served; gRPC $listen:$grpc_port, REST $listen:$rest_port" >&2
if [[ -n "$print_only" ]]; then
  printf '%q ' "${run[@]}"
  echo
  exit 0
fi
exec "${run[@]}"
