#!/usr/bin/env bash
# What CUDA does here, in five minutes, on a machine that has torch and this tree and no network:
#
#     experiments/gpu_check.sh --out DIR              # on a GPU
#     experiments/gpu_check.sh --out DIR --dry-run    # at toy size on a CPU, in a minute
#
# The tests that CUDA matters to, a minute of training each on MNIST and Omniglot, the renderer, parses in
# bulk, and where a training step's time goes. It prints as it goes; DIR/gpu_check.json holds, at any
# moment, what is known by then. Nothing is installed into the machine's own Python: packages that it
# lacks (pyro-ppl and pyro-api, platformdirs) are taken from WHEELS, a folder of wheels.
#
#     DOOD_DATA   folder with mnist.npz and omniglot.npz; random pen strokes take their place
#     WHEELS      folder of wheels; .wheels in the tree by default
#     PYTHON      python3 by default
set -euo pipefail

tree="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}"
wheels="${WHEELS:-$tree/.wheels}"
site="$(mktemp -d)"
trap 'rm -rf "$site"' EXIT

# The package as it would be installed, the commands in it.
mkdir "$site/dood_pyro"
ln -s "$tree"/dood_pyro/* "$site/dood_pyro/"
[ -e "$site/dood_pyro/cli" ] || ln -s "$tree/cli" "$site/dood_pyro/cli"
if compgen -G "$wheels/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
        --target "$site" "$wheels"/*.whl
fi
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
"$python" "$tree/experiments/gpu_check.py" "$@"
