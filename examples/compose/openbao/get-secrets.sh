#!/bin/sh
# The way back: writes what the vault holds for a process to files, for its container to mount. The token needs the policy
# taskman-<process>. Usage: BAO_TOKEN=… get-secrets.sh PROCESS FOLDER
set -eu
process=$1
folder=$2
umask 077
mkdir -p "$folder"
for name in taskman.toml ca.crt "$process.crt" "$process.key"; do
    bao kv get -mount=secret -field="$name" "taskman/$process" >"$folder/$name.partial"
    mv -f "$folder/$name.partial" "$folder/$name"
done
