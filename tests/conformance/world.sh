# One server and one mount in a temporary directory, which end with the run. To be sourced; needs $programs.

place=$(mktemp -d "${TMPDIR:-/tmp}/syncmount-conformance.XXXXXX")
server=
finish() {
    unmount >/dev/null 2>&1 || umount -l "$place/mount" 2>/dev/null || true
    [ -z "$server" ] || { kill -TERM "$server" 2>/dev/null && wait "$server" 2>/dev/null || true; }
    rm -rf --one-file-system "$place"
}
trap finish EXIT
trap 'exit 1' INT TERM
chmod 755 "$place"
mkdir "$place/mount" "$place/other"
export XDG_CONFIG_HOME=$place/config XDG_STATE_HOME=$place/state XDG_RUNTIME_DIR=$place/run

serve() {
    : >"$place/server.out"
    "$programs/syncmount-server" --data "$place/server" --listen 127.0.0.1:0 >"$place/server.out" 2>"$place/server.log" &
    server=$!
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        url=$(sed -n 's/^listening on //p' "$place/server.out")
        [ -n "$url" ] && return
        kill -0 "$server" || break
        sleep 0.1
    done
    cat "$place/server.log" >&2
    exit 1
}

# mount_it OPTION…
mount_it() {
    "$programs/syncmount" "$place/mount" --server "$url" --token-file "$place/server/admin.token" \
        --cache-dir "$place/cache" --log-file "$place/mount.log" "$@"
}

# Sends what is pending, then unmounts.
unmount() { "$programs/syncmount" umount "$place/mount" --timeout 60s; }
