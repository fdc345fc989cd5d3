#!/usr/bin/env bash
# Chromium for the tests that look at pages; training needs none. As root it is installed by apt. Elsewhere the line to
# run is printed, and those tests skip; with CI set, where none may skip, that is an error.
set -euo pipefail

packages=(chromium fonts-dejavu-core)

say() { echo "tests: $*" >&2; }

has_chromium() {
    local name
    for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome-stable google-chrome; do
        [ -z "$name" ] || ! command -v "$name" >/dev/null || return 0
    done
    return 1
}

# Tests without it: fine on somebody's own machine.
go_without() {
    say "$@"
    [ -z "${CI:-}" ] || exit 1
    exit 0
}

if has_chromium; then
    exit 0
elif ! command -v apt-get >/dev/null; then
    go_without "there is no Chromium for the tests of pages: install one, or set CHROMIUM to it"
elif [ "$(id -u)" -ne 0 ]; then
    go_without "there is no Chromium for the tests of pages; to have them, run:" \
        "sudo apt-get update && sudo apt-get install -y ${packages[*]}"
fi

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
log="$root/.setup/chromium.log"
mkdir -p "$root/.setup"
say "installing ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update && apt-get install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1 </dev/null; then
    tail -n 5 "$log" >&2
    go_without "Chromium could not be installed: the log is $log"
fi
has_chromium || go_without "${packages[0]} was installed, and there is no Chromium on the PATH: set CHROMIUM to it"
