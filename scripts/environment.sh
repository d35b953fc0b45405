# Sourced by the other scripts: `environment NAME` makes the Python environment NAME once, installs the project with its
# extras at the versions of scripts/constraints/NAME.txt, and leaves its interpreter in $python. It is made again when
# the versions or the project's dependencies change.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The project's extras in each environment.
declare -A extras=(
    [export]=export,ort,openvino,prompt,test,lint
    [lean]=ort,prompt,test,build
    [serve]=ort,serve,otel,clients,test
    [triton]=ort,serve,triton-server,test
    [ray]=ort,ray,clients,test
    [goldens]=goldens
    [rtx]=tensorrt-rtx
)

environment() {
    local name=$1
    local folder="$root/.venv-$name" constraints="$root/scripts/constraints/$name.txt"
    local wanted
    wanted=$({ echo "${extras[$name]}"; cat "$constraints" "$root/pyproject.toml"; } | sha256sum)
    python="$folder/bin/python"
    if [ "$(cat "$folder/made-from" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    echo "making the environment .venv-$name (once) ..." >&2
    rm -rf "$folder"
    local interpreter
    interpreter=$(python_311)
    "$interpreter" -m venv "$folder"
    "$python" -m pip install --quiet --disable-pip-version-check --no-compile --constraint "$constraints" --editable "$root[${extras[$name]}]"
    echo "$wanted" > "$folder/made-from"
}

# `tests ARGUMENTS` runs pytest in the environment last made, a worker to a core and a file to a worker.
tests() {
    local workers
    workers=$(nproc)
    OMP_NUM_THREADS=1 "$python" -m pytest -q -n "$((workers < 4 ? workers : 4))" --dist loadfile --no-loadscope-reorder "$@"
}

python_311() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Python 3.11 is needed (ppdiffusers and its companions); set PYTHON to its interpreter" >&2
    return 2
}

# `debian_root FOLDER OPTIONS` makes a Debian root with debootstrap, from the mirror in apt's configuration if it has one.
debian_root() {
    local folder=$1 mirror log
    shift
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Codename: bookworm' 2> /dev/null | head -n 1 || true)
    log=$(mktemp)
    debootstrap --variant=minbase "$@" bookworm "$folder" ${mirror:+"$mirror"} > "$log" 2>&1 ||
        { tail -n 5 "$log" >&2; rm -f "$log"; return 1; }
    rm -f "$log"
}
