# SPDX-License-Identifier: GPL-2.0-or-later
# Debian's kernel packages for the module builds. Sourced after lib.sh.

# Files that become part of kvm.ko, kvm-intel.ko or kvm-amd.ko, as git path specifications.
# A header of these that the stock vmlinux uses too is watched by scripts/kvm-abi.
kvm_module_paths="arch/x86/kvm virt/kvm include/linux/kvm* include/uapi/linux/kvm*
    include/trace/events/kvm.h arch/x86/include/asm/kvm* arch/x86/include/uapi/asm/kvm*"

# Kernels that have patches. The lab boots others of upstream/linux-*.version as they are.
kvm_known() {
    find "$root/patches/kvm" -maxdepth 1 -name 'linux-*' | sed 's,.*/linux-,,' | sort -V | xargs
}

# kvm_init KERNEL: sets $kernel, $pin (name of the version file), $debs (cache).
kvm_init() {
    case " $(kvm_known) " in
    *" ${1:-none given} "*) ;;
    *)
        [ -z "${1:-}" ] || [ ! -e "$root/upstream/linux-$1.version" ] ||
            die "there are no KVM patches for Linux $1 yet, known: $(kvm_known)"
        die "unknown kernel '${1:-}'; known: $(kvm_known) (make kvm-modules KERNEL=...)"
        ;;
    esac
    kernel=$1 pin=linux-$1 debs=$build/cache/kernel
}

# kvm_find PACKAGE VERSION: sets $deb to the cached package; fails if there is none.
kvm_find() {
    deb=$(find "$debs" -name "$1_$2_*.deb" 2>/dev/null | head -n 1)
    [ -n "$deb" ]
}

# kvm_fetch SUITE PACKAGE VERSION: sets $deb.
kvm_fetch() {
    ! kvm_find "$2" "$3" || return 0
    mkdir -p "$debs"
    step "fetch $2 $3" "$root/scripts/apt-suite" -C "$debs" "$1" download "$2=$3" || return 1
    kvm_find "$2" "$3" || die "apt-suite left no $2_$3_*.deb in $debs"
}

# kvm_fetch_or_newer SUITE PACKAGE VERSION: sets $deb and $fetched, its version. The archive
# drops a version of a package that all kernels of a series share when the next one arrives.
kvm_fetch_or_newer() {
    fetched=$3
    ! kvm_find "$2" "$3" || return 0
    offered=$("$root/scripts/apt-suite" "$1" madison "$2" |
        awk -F'|' '/Packages$/ { gsub(/ /, "", $2); print $2 }' | sort -V)
    if ! printf '%s\n' "$offered" | grep -qxF "$3"; then
        fetched=$(printf '%s\n' "$offered" | tail -n 1)
        dpkg --compare-versions "$fetched" gt "$3" ||
            die "$2 $3 or newer is not in $1; newest there: ${fetched:-none}"
        notice "$2 $3 is gone from the archive, using $fetched"
    fi
    kvm_fetch "$1" "$2" "$fetched"
}

# "VERSION HEADERS-PACKAGE" that the suite's meta package names today.
kvm_newest() {
    "$root/scripts/apt-suite" "$1" show linux-headers-amd64 |
        sed -n "s/^Depends:.*\(linux-headers-$kernel\.[^ ]*\) (= \([^)]*\)).*/\2 \1/p" |
        sort -V | tail -n 1
}

# Sets $version and $headers: what is pinned or, when that is gone from the archive,
# what replaced it. The choice is remembered, so that source and headers belong together.
kvm_resolve() {
    suite=$(version_field "$pin" modules-suite)
    version=$(version_field "$pin" modules-version)
    headers=$(version_field "$pin" modules-headers)
    pinned="$version $headers"
    if chosen=$(sed -n "s/^$pinned -> //p" "$build/stamp/$pin" 2>/dev/null) && [ -n "$chosen" ]; then
        :
    elif kvm_fetch "$suite" "linux-source-$kernel" "$version" &&
        kvm_fetch "$suite" "$headers" "$version"; then
        chosen=$pinned
    else
        chosen=$(kvm_newest "$suite")
        [ -n "$chosen" ] || die "linux-source-$kernel $version or $headers could not be fetched, and linux-headers-amd64 of $suite is no $kernel kernel; change upstream/$pin.version"
        notice "kernel $version is gone from the archive, using ${chosen% *}"
    fi
    stamp_set "$pin" "$pinned -> $chosen"
    version=${chosen% *} headers=${chosen#* }
}
