#!/usr/bin/env bash
# The front door: from a memory dump to its picture. `usage` below says how.
set -euo pipefail

# shellcheck source=environments.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/environments.sh"

no_windows=3 # the exit code where no Windows is found in the dump

# Run a script as Python 2.7 itself would, but let it look for garbage less often: Volatility makes
# so many objects as it starts that the search takes half of its time.
run_script='import gc, os, sys
gc.set_threshold(100000)
del sys.argv[0]
sys.path[0] = os.path.dirname(os.path.realpath(sys.argv[0]))
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")'

usage() {
    cat <<'END'
See what a machine's RAM holds: a picture with one pixel for each page of a memory dump.

usage: ./visualizer.sh DUMP PROFILE [OPTION ...]  paint images/<file name of DUMP>.png
       ./visualizer.sh DUMP                       find out which profiles fit the dump
       ./visualizer.sh --demo [OPTION ...]        forge a small Windows 10 dump, and paint it
       ./visualizer.sh --setup                    only make the Python environments

DUMP is a raw dump of a Windows machine's memory, PROFILE its Windows version as Volatility 2
names it. What follows goes to the renderer:

  -o PATH          write the picture to PATH
  --legend         draw the legend below the picture
  --layout hilbert along a curve that keeps neighbours together, instead of in rows
  --width N        pages in a row (else the smallest square that holds all pages)
  --scale N        N by N pixels for each page
  --palette NAME   colours: default, or colour-blind
  --lenient        paint a damaged dump as far as possible

examples:
  ./visualizer.sh --demo
  ./visualizer.sh dumps/xp.raw
  ./visualizer.sh dumps/xp.raw WinXPSP2x86
  ./visualizer.sh "my dumps/win7.raw" Win7SP1x64 --legend -o win7.png
  VOLATILITY=~/volatility/vol.py ./visualizer.sh dumps/xp.raw WinXPSP2x86

Volatility 2 is VOLATILITY of the environment (a vol.py, or a command), else vol.py on the PATH,
else this project's own, which the first run sets up; that needs Python 2.7. Where there is none,
memviz paints the dump, with a profile or without. --demo is always painted by memviz.

exit codes: 0 done, 2 bad input or usage, 3 no Windows found in the dump, 4 a Python is missing,
130 interrupted; else that of the step that failed
END
}

main() {
    local argument
    for argument in "$@"; do
        if [[ $argument == -h || $argument == --help ]]; then
            usage
            return
        fi
    done
    if [[ $# -eq 0 ]]; then
        usage >&2
        exit 2
    fi
    case $1 in
    --setup)
        [[ $# -eq 1 ]] || fail 2 "--setup stands alone"
        ensure_python2_environment
        say "All is set up."
        ;;
    --demo) demo "${@:2}" ;;
    -*) fail 2 "give the dump first: DUMP PROFILE $(quoted "$1") … (--help says more)" ;;
    *) picture_or_profiles "$@" ;;
    esac
}

picture_or_profiles() {
    local dump=$1
    check_dump "$dump"
    if [[ ${2--} == -* ]]; then
        suggest_profiles "$dump" "${@:2}"
        return
    fi
    if [[ ${3--} != -* ]]; then
        fail 2 "only options may follow DUMP and PROFILE, but there is $(quoted "$3");" \
            "a path with spaces needs quotes"
    fi
    paint "$@"
}

check_dump() {
    [[ -e $1 ]] || fail 2 "there is no file $(quoted "$1")"
    [[ ! -d $1 ]] || fail 2 "$(quoted "$1") is a folder; give a dump file in it"
    [[ -r $1 ]] || fail 2 "$(quoted "$1") cannot be read: permission denied"
}

demo() {
    local dump=$root/dumps/demo.raw
    steps=2
    remove_old_picture "$dump" "$@"
    ensure_python3_environment
    step "Forging the memory of a small Windows 10 machine, dumps/demo.raw"
    mkdir -p "$root/dumps"
    run in_checkout "$python3_environment/bin/python" -m tests.forge Win10x64_17763 "$dump" \
        --size 64M || step_failed $? "forging"
    step "Painting it with memviz"
    paint_with_memviz "$dump" --legend "$@"
}

in_checkout() {
    cd -- "$root" && exec "$@"
}

# paint DUMP PROFILE OPTION...: both steps to the picture.
paint() {
    local dump=$1 profile=$2 picture
    shift 2
    remove_old_picture "$dump" "$@"
    find_volatility
    if [[ ${#volatility[@]} -eq 0 ]]; then
        paint_without_volatility "$dump" "$@"
        return
    fi
    picture=$(picture_path "$dump" "$@")
    steps=2
    check_options "$@"
    [[ $picture == "$root"/images/* || -d $(dirname -- "$picture") ]] ||
        fail 2 "there is no folder for $(quoted "$picture")"
    step "Reading the page tables with Volatility (${volatility[*]: -1})"
    run "${volatility[@]}" --plugins="$root/plugins" --filename="$dump" --profile="$profile" \
        memoryvisualizer >"$temporary/printed" || step_failed $? "Volatility"
    # Volatility prints to one stream the map and what it has to say of its other plugins.
    local map_line='^(0x|\(Virtual\)|--)'
    grep -vE "$map_line" "$temporary/printed" >&2 || true
    grep -E "$map_line" "$temporary/printed" >"$temporary/map" || true
    grep -q '^0x' "$temporary/map" ||
        fail 1 "Volatility ended without an error but found no mapped page: nothing to paint"

    step "Painting"
    run render "$@" -- "$dump" "$temporary/map" "${dump##*/}" || step_failed $? "the renderer"
}

paint_without_volatility() {
    remove_old_picture "$@"
    ensure_python3_environment
    say "${0##*/}: $why_no_volatility; until then memviz paints the dump," \
        "and needs no profile for it"
    paint_with_memviz "$@"
}

# paint_with_memviz DUMP OPTION...: the run's exit code is memviz's, which also says what is wrong.
paint_with_memviz() {
    local dump=$1
    shift
    mkdir -p "$root/images"
    run memviz --output="$(picture_path "$dump")" "$@" -- "$dump" || exit $?
}

# Not from the current folder (-P): what lies beside a dump must not be run.
memviz() {
    PYTHONPATH=$root exec "$python3_environment/bin/python" -P -m memory_visualizer "$@"
}

render() {
    exec "$python3_environment/bin/python" "$root/imagegenerator.py" "$@"
}

# Try the renderer's options on a single page: Volatility may take long, a typo should not.
check_options() {
    [[ $# -gt 0 ]] || return 0
    head -c 4096 /dev/zero >"$temporary/page"
    echo "0x0 0x0 0x1000 True" >"$temporary/map"
    quietly try_to_render "$@" --output=trial.png -- page map || exit $?
}

try_to_render() {
    cd "$temporary" && render "$@"
}

# suggest_profiles DUMP OPTION...: say with which profiles to run again.
suggest_profiles() {
    local dump=$1 suggested profile code=0
    find_volatility
    if [[ ${#volatility[@]} -eq 0 ]]; then
        paint_without_volatility "$@"
        return
    fi
    steps=1
    step "No profile given: asking Volatility which ones fit (imageinfo, half a minute or more)"
    run "${volatility[@]}" --filename="$dump" imageinfo >"$temporary/printed" || code=$?
    cat "$temporary/printed"
    [[ $code -eq 0 ]] || step_failed "$code" "Volatility"
    suggested=$(sed -nE 's/^ *Suggested Profile\(s\) : *//p' "$temporary/printed")
    suggested=${suggested%% (*} # "(Instantiated with …)"
    if [[ -z $suggested || $suggested == "No suggestion" ]]; then
        fail $no_windows "Volatility finds no Windows that it knows in $(quoted "$dump")"
    fi
    say
    say "Run it again with one of the suggested profiles:"
    for profile in ${suggested//,/ }; do
        say "  $(quoted "$0" "$dump" "$profile" "${@:2}")"
    done
}

# Put the command that runs Volatility 2 into `volatility`, and make .venv ready. Where it cannot
# be had, leave `volatility` empty and put the reason into `why_no_volatility`.
find_volatility() {
    local on_path
    if [[ -n ${VOLATILITY-} ]]; then
        use_given_volatility
    elif on_path=$(type -P vol.py) && is_volatility2 "$on_path"; then
        volatility=("$on_path")
    else
        use_own_volatility
    fi
    [[ ${#volatility[@]} -eq 0 ]] || ensure_python3_environment
}

use_own_volatility() {
    if ! is_ready "$python2_environment"; then
        find_python2 >/dev/null || return 0
        ensure_python3_environment
        if ! (ensure_python2_environment); then
            why_no_volatility="Volatility 2 could not be set up, as told above"
            return
        fi
    fi
    run_volatility_by "$python2_environment/bin/python" "$python2_environment/bin/vol.py"
}

use_given_volatility() {
    if [[ ! -f $VOLATILITY ]]; then
        read -ra volatility <<<"$VOLATILITY"
        type -P "${volatility[0]-}" >/dev/null ||
            fail 2 "VOLATILITY is neither a file nor a command: $(quoted "$VOLATILITY")"
        return
    fi
    local script python=$python2_environment/bin/python
    script=$(readlink -f -- "$VOLATILITY")
    volatility=("$script")
    [[ -x $script ]] && is_volatility2 "$script" && return
    # A vol.py as it comes from its archive: not executable, or for a `python` that is Python 3.
    if is_ready "$python2_environment" || python=$(find_python2); then
        if [[ ! -x $script ]] || is_volatility2 "$python" "$script"; then
            run_volatility_by "$python" "$script"
        fi
    elif [[ ! -x $script ]]; then
        volatility=()
    fi
}

# run_volatility_by PYTHON SCRIPT
run_volatility_by() {
    volatility=("$1" -c "$run_script" "$2")
}

# Whether the command is a Volatility 2 that starts. It says so at once, but takes seconds to end.
is_volatility2() {
    local line output found=1
    exec {output}< <(exec "$@" -h 2>&1 </dev/null)
    while read -r line <&"$output"; do
        if [[ $line == "Volatility Foundation Volatility Framework 2."* ]]; then
            found=0
            break
        fi
    done
    kill $! 2>/dev/null || true
    exec {output}<&-
    return $found
}

# Should a step fail, no picture of an earlier run may pass for this run's.
remove_old_picture() {
    local picture
    picture=$(picture_path "$@")
    if is_png "$picture" && [[ ! $picture -ef $1 ]]; then
        rm -f -- "$(readlink -f -- "$picture")"
    fi
}

# picture_path DUMP OPTION...: print where the renderer will write the picture.
picture_path() {
    local path=$root/images/${1##*/}.png
    shift
    while [[ $# -gt 0 ]]; do
        case $1 in
        --o*=*) path=${1#*=} ;;
        -o | --o*)
            path=${2-}
            shift
            ;;
        -o*) path=${1#-o} ;;
        esac
        shift || true
    done
    printf '%s' "$path"
}

# Whether it is a picture, so that nothing else, such as a dump, is ever removed for one.
is_png() {
    [[ -f $1 ]] && head -c 8 -- "$1" | cmp -s - <(printf '\x89PNG\r\n\x1a\n')
}

step() {
    step=$((step + 1))
    say "[$step/$steps] $* …"
}

step_failed() {
    fail "$1" "$2 failed (exit code $1); no picture was made"
}

# Run a command such that a signal to this script ends it too.
run() {
    "$@" &
    child=$!
    local code=0
    wait "$child" || code=$?
    child=
    return "$code"
}

interrupted() {
    trap '' HUP INT TERM
    if [[ -n $child ]]; then
        kill "$child" 2>/dev/null || true
        wait "$child" || true
    fi
    fail "$1" "interrupted; no picture was made"
}

quoted() {
    local words
    printf -v words '%q ' "$@"
    printf '%s' "${words% }"
}

volatility=()
why_no_volatility=$needs_python2
step=0 steps=0
child=
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
trap 'interrupted 129' HUP
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
main "$@"
