#!/usr/bin/env bash
# Check of CUDA in eight minutes, on a machine that has torch and this tree and needs no network:
#
#     experiments/gpu_check.sh --out DIR              # on a GPU
#     experiments/gpu_check.sh --out DIR --dry-run    # at toy size on a CPU, in a minute
#
# Runs the tests that CUDA matters to, times the renderer, training steps and parses in bulk, profiles a
# step, and trains for 90 seconds each on MNIST and Omniglot, with bounds on log p(x) after it. Findings are
# printed, and DIR/bench_gpu.json holds all findings so far. Nothing is installed into the machine's own Python: missing packages (pyro-ppl and
# pyro-api, platformdirs) are taken from WHEELS, a folder of wheels.
#
#     DOOD_DATA   folder with mnist.npz and omniglot.npz; random strokes replace a missing file
#     WHEELS      folder of wheels; .wheels in the tree by default
#     PYTHON      python3 by default
set -euo pipefail

tree="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}"
wheels="${WHEELS:-$tree/.wheels}"
site="$(mktemp -d)"
trap 'rm -rf "$site"' EXIT

# The package as installed: the commands in dood_pyro/cli.
mkdir "$site/dood_pyro"
ln -s "$tree"/dood_pyro/* "$site/dood_pyro/"
[ -e "$site/dood_pyro/cli" ] || ln -s "$tree/cli" "$site/dood_pyro/cli"
if compgen -G "$wheels/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
        --target "$site" "$wheels"/*.whl
fi
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
"$python" "$tree/experiments/gpu_check.py" "$@"
