#!/usr/bin/env bash
# Make a virtual environment with the versions of requirements.lock; `make` calls this.
#
#   setup.sh FOLDER
#
# PYTHON      interpreters to try in turn; the first from 3.11.5 to 3.13 is taken
# INSTALLER   uv, pip, or auto: uv if it is there. But uv does not read pip's
#             configuration: where that names sources or limits of its own, pip is taken
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

folder=${1:?usage: setup.sh FOLDER}
installer=${INSTALLER:-auto}
candidates=${PYTHON:-python3 python3.13 python3.12 python3.11 python}
supported='import sys; sys.exit(not (3, 11, 5) <= sys.version_info < (3, 14))'

python=
for candidate in $candidates; do
    if $candidate -c "$supported" 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "no Python from 3.11.5 to 3.13 among: $candidates; install one or set PYTHON" >&2
    exit 1
fi

if [ "$installer" = auto ]; then
    configuration=$($python -m pip config list 2>/dev/null || true)
    installer=pip
    if command -v uv >/dev/null &&
        ! grep -qE 'index-url|find-links|constraint|no-index' <<<"$configuration"; then
        installer=uv
    fi
fi

echo "Setting up $folder with $installer: once, a minute or more ..."
if [ "$installer" = uv ]; then
    uv venv --quiet --allow-existing --python "$python" "$folder"
    install="uv pip install --python $folder/bin/python"
    $install -r requirements.lock
else
    $python -m venv "$folder"
    install="$folder/bin/python -m pip install"
    # pip says several lines a package: show only what takes time.
    $install -r requirements.lock |
        { grep --line-buffered -E '^ *Downloading|^Installing' || true; }
fi
$install --quiet --no-deps --no-build-isolation -e .
