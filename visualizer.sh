#!/usr/bin/env bash
# The front door: from a memory dump to its picture. `usage` below says how.
set -euo pipefail

# shellcheck source=environments.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/environments.sh"

no_system=3 # memviz's exit code where it finds neither Windows nor Linux in the dump

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
       ./visualizer.sh DUMP [OPTION ...]          paint it with memviz, and a page for the
                                                  browser; find out which profiles fit
       ./visualizer.sh --demo [OPTION ...]        write a small Windows 10's memory, and paint it
       ./visualizer.sh --setup                    only make the Python environments

DUMP is a dump of a machine's memory, PROFILE its Windows version as Volatility 2 names it.

Without a profile memviz paints the dump. It needs only seconds, names the system in the dump, and
lists the profiles of Volatility 2 that fit. If Volatility 2 may know the dump, its imageinfo then
runs as well; Ctrl-C ends it without loss. With a profile Volatility 2 finds the processes, and
the pages of a hidden process show as unused. Options for both:

  -o PATH          write the picture to PATH, which ends in .png; - is standard output
  --legend         draw the legend below the picture
  --layout hilbert along a Hilbert curve, which keeps neighbours together, instead of in rows
  --width N        pages in a row (else the smallest square that holds all pages)
  --scale N        N by N pixels for each page
  --palette NAME   colours: default, or colour-blind
  --lenient        paint a damaged dump as far as possible
  --force          also replace files that this program did not write, except possible dumps

Without a profile:

  --no-imageinfo   do not ask Volatility's imageinfo
  ...              all options of memviz (.venv/bin/memviz --help)

examples:
  ./visualizer.sh --demo
  ./visualizer.sh dumps/xp.raw
  ./visualizer.sh dumps/xp.raw WinXPSP2x86
  ./visualizer.sh "my dumps/win7.raw" Win7SP1x64 --legend -o win7.png
  VOLATILITY=~/volatility/vol.py ./visualizer.sh dumps/xp.raw WinXPSP2x86

Volatility 2 is VOLATILITY of the environment (a vol.py, or a command), else vol.py on the PATH,
else this project's own, which the first run sets up; that needs Python 2.7. Without Python 2.7
memviz paints the dump, even if a profile is given. --demo is always painted by memviz.

exit codes: 0 done, 2 bad input or usage, 3 no Windows or Linux found in the dump, 4 a Python is
missing, 130 interrupted; else the code of the step that failed
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
    check_given_volatility
    if [[ ${2--} == -* ]]; then
        look_at "$dump" "${@:2}"
    elif [[ ${3--} == -* ]]; then
        paint "$@"
    else
        fail 2 "only options may follow DUMP and PROFILE, but there is $(quoted "$3");" \
            "a path with spaces needs quotes"
    fi
}

check_dump() {
    [[ -e $1 ]] || fail 2 "there is no file $(quoted "$1")"
    [[ ! -d $1 ]] || fail 2 "$(quoted "$1") is a folder; give a dump file in it"
    [[ -f $1 || -b $1 ]] ||
        fail 2 "$(quoted "$1") is a pipe or a device; save the memory as a file first"
    [[ -r $1 ]] || fail 2 "$(quoted "$1") cannot be read: permission denied"
}

check_given_volatility() {
    [[ -n ${VOLATILITY-} && ! -f $VOLATILITY ]] || return 0
    local command
    read -ra command <<<"$VOLATILITY"
    type -P "${command[0]-}" >/dev/null ||
        fail 2 "VOLATILITY is neither a file nor a command: $(quoted "$VOLATILITY")"
}

demo() {
    local dump=$root/dumps/demo.raw options
    steps=2
    ensure_python3_environment
    mkdir -p "$root/dumps" "$root/images"
    # Named, so that the picture of an older demo gives way.
    options=(-o "$root/images/demo.raw.png" --legend "$@")
    quietly memviz_in_its_shell --front-door="$root/images" --check "${options[@]}" -- "$dump" ||
        exit $?
    step "Writing the memory of a small Windows 10 machine, dumps/demo.raw"
    run in_checkout "$python3_environment/bin/python" -m tests.synth Win10x64_17763 "$dump" \
        --size 64M || step_failed $? "writing it"
    step "Painting it with memviz"
    paint_with_memviz "$dump" "${options[@]}"
    say "Its contents are synthetic: a process that hides, and code put into another one." \
        "Open the page in a browser."
}

in_checkout() {
    cd -- "$root" && exec "$@"
}

# paint DUMP PROFILE OPTION...: both steps to the picture.
paint() {
    local dump=$1 profile=$2
    shift 2
    ensure_python3_environment
    : >"$temporary/map"
    quietly render_in_its_shell --check "$@" -- "$dump" "$temporary/map" "${dump##*/}" || exit $?
    find_volatility
    if [[ ${#volatility[@]} -eq 0 ]]; then
        say "${0##*/}: $why_no_volatility; until then memviz paints the dump," \
            "and needs no profile for it"
        paint_with_memviz "$dump" "$@"
        return
    fi
    picture=$(picture_path "$dump" "$@")
    steps=2
    step "Reading the page tables with Volatility (${volatility[*]: -1})"
    run "${volatility[@]}" --plugins="$root/plugins" --filename="$dump" --profile="$profile" \
        memoryvisualizer >"$temporary/printed" || step_failed $? "Volatility"
    # Volatility prints to one stream the map and what it has to say of its other plugins.
    local map_line='^(0x|\(Virtual\)|--)'
    grep -vE "$map_line" "$temporary/printed" >&2 || true
    grep -E "$map_line" "$temporary/printed" >"$temporary/map" || true
    grep -q '^0x' "$temporary/map" ||
        fail 1 "Volatility ended without an error but found no mapped page; $(outcome)"

    step "Painting"
    run render "$@" -- "$dump" "$temporary/map" "${dump##*/}" || step_failed $? "the renderer"
    say "Volatility 2 follows the list of processes, so a hidden one's pages show as unused;" \
        "without a profile memviz finds these, too."
}

# look_at DUMP OPTION...: paint with memviz, and say with which profiles Volatility 2 may go on.
look_at() {
    local dump=$1 argument ask=yes options=() code=0 profiles why unlinked
    for argument in "${@:2}"; do
        if [[ $argument == --no-imageinfo ]]; then
            ask=
        else
            options+=("$argument")
        fi
    done
    ensure_python3_environment
    paint_with_memviz "$dump" --volatility2="$temporary/facts" "${options[@]}" || code=$?
    profiles=$(fact profiles) why=$(fact why) unlinked=$(fact unlinked)
    kept="the picture and the page are done"
    say
    if [[ -n $why ]]; then
        say "Volatility 2 is not run: $why."
        exit "$code"
    fi
    go_on_with "$dump" "$profiles" "${options[@]}"
    if [[ $unlinked -gt 0 ]]; then
        [[ $unlinked -eq 1 ]] && unlinked+=" process" || unlinked+=" processes"
        say "Volatility 2 follows the list of processes: there the pages of ${unlinked/ / unlinked }" \
            "show as unused."
    fi
    [[ -z $ask ]] || ask_imageinfo "$dump" "$profiles" "${options[@]}"
    exit "$code"
}

# fact WORD: print what memviz told visualizer.sh under this word.
fact() {
    sed -n "s/^$1 //p" "$temporary/facts"
}

# go_on_with DUMP PROFILES OPTION...: say with which commands.
go_on_with() {
    local dump=$1 profiles=$2 profile carried
    if [[ -z $profiles ]]; then
        say "The dump does not show which profiles of Volatility 2 fit."
        return
    fi
    mapfile -d '' carried < <(renderers_options "${@:3}")
    say "Profiles of Volatility 2 that fit (memviz), with the commands to go on with:"
    for profile in $profiles; do
        say "  $(quoted "$0" "$dump" "$profile" "${carried[@]}")"
    done
}

# renderers_options OPTION...: print, each with a NUL after it, those that go with a profile, too.
renderers_options() {
    while [[ $# -gt 0 ]]; do
        case $1 in
        -o | --output | --layout | --width | --scale | --palette)
            printf '%s\0' "$1" "${2-}"
            shift
            ;;
        -o?* | --output=* | --layout=* | --width=* | --scale=* | --palette=*) printf '%s\0' "$1" ;;
        --legend | --lenient | --force) printf '%s\0' "$1" ;;
        esac
        shift || true
    done
}

# ask_imageinfo DUMP PROFILES OPTION...: show what Volatility says, and compare it with memviz.
ask_imageinfo() {
    local dump=$1 profiles=$2 code=0 screen=1 option
    find_volatility
    if [[ ${#volatility[@]} -eq 0 ]]; then
        say "Volatility's imageinfo is not run: $why_no_volatility."
        return
    fi
    for option in "${@:3}"; do # what goes to standard output must stay alone there
        [[ $option != - && $option != *=- && $option != -o- && $option != */dev/stdout ]] || screen=2
    done
    say
    say "Running Volatility's imageinfo (half a minute or more; Ctrl-C ends it without loss) …"
    run "${volatility[@]}" --filename="$dump" imageinfo >"$temporary/printed" || code=$?
    cat "$temporary/printed" >&"$screen"
    [[ $code -eq 0 ]] || fail "$code" "imageinfo failed (exit code $code); $(outcome)"
    compare "$(suggested)" "$profiles"
}

# suggested: print the profiles that imageinfo suggested.
suggested() {
    local line
    line=$(sed -nE 's/^ *Suggested Profile\(s\) : *//p' "$temporary/printed")
    line=${line%% (*} # "(Instantiated with …)"
    [[ $line == "No suggestion" ]] || printf '%s' "${line//,/}"
}

# compare IMAGEINFO'S MEMVIZ'S: say in one line how the two lists of profiles differ.
compare() {
    local profile both=() only=()
    for profile in $1; do
        if [[ " $2 " == *" $profile "* ]]; then both+=("$profile"); else only+=("$profile"); fi
    done
    if [[ -z $1 ]]; then
        say "imageinfo suggests no profile; memviz: $(listed "$2")."
    elif [[ ${#only[@]} -eq 0 && $(listed "${both[*]}" | wc -w) -eq $(listed "$2" | wc -w) ]]; then
        say "imageinfo and memviz name the same profiles: $(listed "$1")."
    else
        say "imageinfo suggests $(listed "$1"); memviz $(listed "$2"); both: $(listed "${both[*]-}")."
    fi
}

# listed WORDS: print them with commas between.
listed() {
    local words=${1:-none}
    printf '%s' "${words// /, }"
}

# paint_with_memviz DUMP OPTION...: ends the run where memviz fails, and then memviz says why. Its
# exit code 3 is returned: nothing is known of the dump, but it is painted.
paint_with_memviz() {
    local dump=$1 code=0
    shift
    picture=$(picture_path "$dump" "$@")
    mkdir -p "$root/images"
    run memviz --front-door="$root/images" "$@" -- "$dump" || code=$?
    [[ $code -eq 0 || $code -eq $no_system ]] || exit "$code"
    return "$code"
}

# Not from the current folder (-P): what lies beside a dump must not be run.
memviz() {
    PYTHONPATH=$root exec "$python3_environment/bin/python" -P -m memory_visualizer "$@"
}

render() {
    exec "$python3_environment/bin/python" "$root/imagegenerator.py" "$@"
}

memviz_in_its_shell() (memviz "$@")

render_in_its_shell() (render "$@")

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

# picture_path DUMP OPTION...: print where the picture will be written.
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

step() {
    step=$((step + 1))
    say "[$step/$steps] $* …"
}

step_failed() {
    fail "$1" "$2 failed (exit code $1); $(outcome)"
}

# What there is when the run ends before its time. A picture of an earlier run stays, but must not
# pass for this run's.
outcome() {
    if [[ -n $kept ]]; then
        printf '%s' "$kept"
    elif [[ -e $picture ]]; then
        printf '%s' "no picture was made, and $(quoted "$picture") comes from an earlier run"
    else
        printf '%s' "no picture was made"
    fi
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
    fail "$1" "interrupted; $(outcome)"
}

quoted() {
    local words
    printf -v words '%q ' "$@"
    printf '%s' "${words% }"
}

volatility=()
why_no_volatility=$needs_python2
step=0 steps=0
picture= # where it is to be
kept=    # what is done already, should the run be interrupted
child=
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
trap 'interrupted 129' HUP
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
main "$@"
