# SPDX-License-Identifier: GPL-2.0-or-later
# Patch queues: patches/QUEUE/series <-> commits upstream..HEAD of build/NAME-src, where
# NAME is the last part of QUEUE (qemu, kvm/linux-6.12). Sourced after lib.sh, and after
# kvm-lib.sh where pq_check_paths is used.
#
# The source tree remembers what was last imported or exported: ref refs/pq/queue is the
# commit, $GIT_DIR/pq-hash the hash of the patch files.

# What the user configured for git must not change a patch or a commit.
GIT_CONFIG_GLOBAL=/dev/null
GIT_CONFIG_NOSYSTEM=1
GIT_COMMITTER_NAME=qemu-prefault
GIT_COMMITTER_EMAIL=qemu-prefault@localhost
export GIT_CONFIG_GLOBAL GIT_CONFIG_NOSYSTEM GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL

# pq_init QUEUE [TREE]: TREE below build is used instead of NAME-src.
pq_init() {
    queue=$1
    patches=$root/patches/$queue
    src=$build/${2:-$(basename "$queue")-src}
    case $queue in
    kvm/*) maker="scripts/kvm-source ${queue#kvm/linux-}" ;;
    *) maker=./configure ;;
    esac
    [ -d "$patches" ] || die "no queue '$queue': there is no directory patches/$queue"
    [ -e "$src/.git" ] || die "build/${src##*/} does not exist; run $maker first"
    git -C "$src" rev-parse -q --verify 'upstream^{commit}' >/dev/null ||
        die "$src has no tag 'upstream'; remove it and run $maker"
}

# Names of the patches in order; "#" starts a comment.
pq_series() {
    [ ! -e "$1/series" ] || sed 's/#.*//; s/[[:space:]]*$//; /^$/d' "$1/series"
}

pq_hash() {
    { git -C "$src" rev-parse upstream
      pq_series "$patches" | while read -r patch; do
          echo "$patch"
          cat "$patches/$patch" || exit 1
      done; } | sha256_of_stdin
}

pq_saved_hash() {
    cat "$src/.git/pq-hash" 2>/dev/null || :
}

# pq_save COMMIT: the tree and the patch files agree now.
pq_save() {
    git -C "$src" update-ref refs/pq/queue "$1"
    pq_hash >"$src/.git/pq-hash"
}

pq_drop_worktree() {
    rm -rf "$1"
    git -C "$src" worktree prune
}

# Only the files that the queue touches are checked out: the whole tree takes seconds.
pq_sparse_worktree() {
    git -C "$src" worktree add -q --no-checkout --detach "$1" upstream
    git -C "$1" read-tree upstream
    pq_series "$patches" | while read -r patch; do
        [ -e "$patches/$patch" ] || die "patches/$queue/series names $patch, which does not exist"
        git -C "$1" apply --numstat "$patches/$patch" | cut -f3
    done | sort -u | (cd "$1" && xargs -r -d '\n' git checkout-index -q -f -- || :)
}

# pq_commits DIR: apply the series in a new worktree DIR; the result is its HEAD.
pq_commits() {
    pq_sparse_worktree "$1"
    pq_series "$patches" | while read -r patch; do
        git -C "$1" -c core.hooksPath=/dev/null am -q --keep-non-patch --no-3way \
            --no-scissors --no-gpg-sign --whitespace=nowarn \
            --committer-date-is-author-date "$patches/$patch" >"$1.log" 2>&1 || {
            sed 's/^/    | /' "$1.log" >&2
            die "patches/$queue/$patch does not apply to $(git -C "$1" log -1 --format=%s) ($(cat "$src/VERSION" 2>/dev/null || echo "$queue"))"
        }
    done
    rm -f "$1.log"
}

# pq_write DIR COMMIT: write the patches and the series of upstream..COMMIT into DIR.
pq_write() {
    mkdir -p "$1"
    git -C "$src" format-patch -q --no-numbered --zero-commit --no-signature \
        --diff-algorithm=myers --full-index --no-thread --no-base --no-ext-diff \
        -o "$1" "upstream..$2"
    (cd "$1" && { echo '# SPDX-License-Identifier: GPL-2.0-or-later'
                  find . -name '*.patch' | sed 's,^\./,,' | sort; } >series)
}

# New files of QEMU belong in the overlay, where they are edited and reviewed as files.
pq_refuse_new_files() {
    added=$(git -C "$src" log --format= --diff-filter=A --name-only --no-renames "upstream..$1" | sort -u)
    [ -z "$added" ] || die "the queue adds files: $(echo $added); put them at the same path of the repository (overlay) and take them out of the commits"
}

# Only modules are built of a kernel: a change elsewhere would be lost without a word.
pq_refuse_unbuilt_files() {
    set -f
    # One word per path specification is intended.
    # shellcheck disable=SC2086
    lost=$(git -C "$src" diff --name-only --no-renames upstream "$1" -- . \
        ':!Documentation' ':!tools' $(printf ':!%s ' $kvm_module_paths))
    set +f
    [ -z "$lost" ] || die "the queue changes files that are in none of the modules that scripts/kvm-modules builds: $(echo $lost)"
}

# pq_check_paths COMMIT: upstream..COMMIT changes only what may be changed.
pq_check_paths() {
    case $queue in
    kvm/*) pq_refuse_unbuilt_files "$1" ;;
    *) pq_refuse_new_files "$1" ;;
    esac
}

pq_warn_forwarded() {
    for patch in "$1"/*.patch; do
        [ ! -e "$patch" ] || grep -q '^Forwarded: ' "$patch" ||
            notice "$(basename "$patch") has no 'Forwarded:' line (no, not-needed or a URL)"
    done
}
