# Sourced by every script: a fresh directory, a fixed environment, and `need` for what a host may lack.
set -u
export LC_ALL=C LANG=C TZ=UTC HOME=/nonexistent PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
umask 022
need() {
    for program; do
        command -v "$program" >/dev/null 2>&1 || {
            echo "$program is not installed" >&2
            exit 77
        }
    done
}
work=$(mktemp -d "${TMPDIR:-/tmp}/script.XXXXXX") || exit 1
trap 'cd /; rm -rf "$work"' EXIT
cd "$work" || exit 1
