# Where landfall's scripts keep things between runs, and where they look for tools.
#
# Sourced, never run. It sets:
#   ROOT             the checkout
#   LANDFALL_CACHE   survives clones: cargo tools, the demo disk's kernel, fuzz corpora
#   PATH             plus the cargo tools, and /sbin, which only root has by default
# and offers `say` (progress) and `die` (one line on stderr, exit 1).

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LANDFALL_CACHE=${LANDFALL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/landfall}
PATH=$LANDFALL_CACHE/tools/bin:$PATH:/usr/sbin:/sbin
export ROOT LANDFALL_CACHE PATH

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}
