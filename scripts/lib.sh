# SPDX-License-Identifier: GPL-2.0-or-later
# Helpers shared by the shell scripts. Sourced after $root (top of the repository) is set.

# BUILD_DIR is for scripts that are tested on a second build directory.
build=${BUILD_DIR:-$root/build}

# Messages and sort orders must not depend on the user's language.
LC_ALL=C.UTF-8
export LC_ALL

die() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

notice() {
    printf '  note: %s\n' "$*" >&2
}

# Print the comment block at the top of the calling script, without SPDX and "#!".
usage() {
    sed -n '/^#!/d; /SPDX-License-Identifier/d; /^#/!q; s/^# \{0,1\}//; p' "$0"
}

# step NAME COMMAND...: run with output in build/log, print name and elapsed time.
step() {
    step_name=$1
    shift
    step_log=$build/log/$(printf '%s' "$step_name" | tr -c 'A-Za-z0-9._-' '-').log
    mkdir -p "$build/log"
    printf '  %-44s' "$step_name ..."
    step_start=$(date +%s)
    step_rc=0
    "$@" >"$step_log" 2>&1 </dev/null || step_rc=$?
    step_time="$(($(date +%s) - step_start)) s"
    if [ "$step_rc" -eq 0 ]; then
        printf ' %s\n' "$step_time"
        return 0
    fi
    printf ' failed after %s\n' "$step_time"
    tail -n 20 "$step_log" | sed 's/^/    | /' >&2
    printf '  the whole log: %s\n' "$step_log" >&2
    return "$step_rc"
}

# version_field FILE KEY: value of a "KEY VALUE" line of an upstream/*.version file.
version_field() {
    sed -n "s/^$2 //p" "$root/upstream/$1.version"
}

# stamp_is NAME TEXT / stamp_set NAME TEXT: what a finished step was done with.
stamp_is() {
    [ "$(cat "$build/stamp/$1" 2>/dev/null)" = "$2" ]
}

stamp_set() {
    mkdir -p "$build/stamp"
    printf '%s\n' "$2" >"$build/stamp/$1"
}

# The fork, the unchanged QEMU and prefixes of the queue are mostly the same files: ccache
# takes them for the same where build and source directory are named alike ("../qemu-src").
# CCACHE_DEPEND: what a file includes is known from -MD, without preprocessing it first.
use_ccache() {
    export CCACHE_DIR="${CCACHE_DIR:-$build/cache/ccache}" CCACHE_BASEDIR="$build" \
        CCACHE_NOHASHDIR=1 CCACHE_DEPEND=1 CCACHE_MAXSIZE="${CCACHE_MAXSIZE:-2G}"
}

sha256_of_stdin() {
    sha256sum | cut -d' ' -f1
}
