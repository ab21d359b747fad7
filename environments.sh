# shellcheck shell=bash
# The checkout's two Python environments, found or made. Sourced by visualizer.sh and tests/run.
#
#   .venv/              Python 3.11 or later, for the renderer and memviz, which is installed there
#   .venv-volatility2/  Python 2.7, for Volatility 2
#
# An environment's file .ready tells what was installed into it. It is written last, so one that
# was left half made never looks ready.

root=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")") # the checkout
python3_environment=$root/.venv
python2_environment=$root/.venv-volatility2
requirements=$root/requirements.txt

no_python=4 # the exit code where there is no Python to make an environment with
needs_python2="Volatility 2 needs Python 2.7, and there is none here: get one with pyenv (pyenv \
install 2.7.18) and run this again, or set VOLATILITY to a vol.py that starts"

# Run by a Python to find out whether it serves; it then prints its own path.
python3_check='import sys, ensurepip, venv
assert sys.version_info >= (3, 11)
print(sys.executable)'
python2_check='import sys
assert sys.version_info[:2] == (2, 7)
print(sys.executable)'

say() {
    printf '%s\n' "$*" >&2
}

# fail CODE WORDS...: say why, and end the run.
fail() {
    local code=$1
    shift
    say "${0##*/}: $*"
    exit "$code"
}

# Make .venv ready; where that cannot be, say why and end the run.
ensure_python3_environment() {
    is_ready "$python3_environment" || locked requirements.txt make_python3_environment
}

# Make .venv-volatility2 ready, and .venv first; where that cannot be, say why and end the run.
ensure_python2_environment() {
    # What is missing is better told before .venv is made than after.
    is_ready "$python2_environment" || find_python2 >/dev/null || fail $no_python "$needs_python2"
    ensure_python3_environment
    is_ready "$python2_environment" || locked requirements.txt make_python2_environment
}

find_python3() {
    first_that "$python3_check" python3 python3.{14,13,12,11} \
        "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1[1-9]*/bin/python
}

find_python2() {
    first_that "$python2_check" python2.7 python2 python \
        "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/2.7*/bin/python
}

# first_that CHECK PYTHON...: print the path of the first Python that passes the check. To be on
# the PATH is not enough: pyenv puts the names of Pythons there that are not switched on. The
# checkout's own environments do not count: one may be activated, and about to be made anew.
first_that() {
    local check=$1 candidate python
    shift
    while read -r candidate; do
        python=$("$candidate" -c "$check" 2>/dev/null </dev/null) || continue
        if [[ $python != "$root"/.venv* ]]; then
            printf '%s' "$python"
            return
        fi
    done < <(type -aP -- "$@")
    return 1
}

make_python3_environment() {
    is_ready "$python3_environment" && return # another run made it while this one waited
    local python
    if ! serves "$python3_environment" "$python3_check"; then
        python=$(find_python3) || fail $no_python "this needs Python 3.11 or later with its module" \
            "venv, and finds none: install one (Debian, Ubuntu: apt install python3-venv;" \
            "pyenv: pyenv install 3.13) and run this again"
        say "Making the Python 3 environment .venv, once …"
        start_anew "$python3_environment"
        quietly "$python" -m venv "$python3_environment" || fail $? "could not make .venv"
    fi
    # The checkout itself, too, in the way in which changes to it are seen at once.
    install "$python3_environment" -r "$requirements" -e "$root" ||
        fail $? "could not install the renderer's parts into .venv; pip says above why"
    # Compiled now, so that no run does it: where Python may write no bytecode, each would, for 0.1 s.
    "$python3_environment/bin/python" -m compileall -q "$root/memory_visualizer" || true
}

make_python2_environment() {
    is_ready "$python2_environment" && return
    local python
    if ! serves "$python2_environment" "$python2_check"; then
        python=$(find_python2) || fail $no_python "$needs_python2"
        say "Making Volatility's Python 2.7 environment .venv-volatility2, once; about a minute …"
        start_anew "$python2_environment"
        quietly "$python3_environment/bin/python" -m virtualenv --no-periodic-update \
            --python "$python" "$python2_environment" ||
            fail $? "could not make .venv-volatility2 with $python"
    fi
    install "$python2_environment" -r "$requirements" ||
        fail $? "could not install Volatility into .venv-volatility2; pip says above why (a part of" \
            "it is compiled, which needs a C compiler and the headers of Python 2.7)"
}

# serves ENVIRONMENT CHECK: whether it was made here, by whomever, and its Python passes.
serves() {
    [[ ! -e $1/.ready || $(head -n 1 "$1/.ready") == "$root" ]] &&
        "$1/bin/python" -c "import pip"$'\n'"$2" &>/dev/null
}

start_anew() {
    rm -rf "$1"
    mkdir "$1"
    echo unfinished >"$1/.ready"
}

# install ENVIRONMENT ARGUMENT...: the arguments are pip's.
install() {
    say "Installing what requirements.txt names into ${1##*/} …"
    echo unfinished >"$1/.ready"
    quietly "$1/bin/python" -m pip install --disable-pip-version-check "${@:2}" &&
        wanted "$1" >"$1/.ready"
}

is_ready() {
    [[ -x $1/bin/python && -e $1/.ready && $(<"$1/.ready") == "$(wanted "$1")" ]]
}

# What an environment's .ready should say. The place is part of it: one that was moved does not work.
wanted() {
    echo "$root"
    cksum <"$requirements"
    [[ $1 != "$python3_environment" ]] || cksum <"$root/pyproject.toml"
}

# Run a command; what it prints is shown only if it fails.
quietly() {
    local printed code=0
    printed=$("$@" 2>&1 </dev/null) || code=$?
    [[ $code -eq 0 ]] || say "$printed"
    return "$code"
}

# locked FILE FUNCTION...: run a function while no other run in this checkout holds the lock on this
# file.
locked() {
    local lock
    exec {lock}<"$root/$1"
    if command -v flock >/dev/null && ! flock --nonblock "$lock"; then
        say "Waiting for another run that sets up this checkout …"
        flock "$lock"
    fi
    "${@:2}"
    exec {lock}<&-
}
