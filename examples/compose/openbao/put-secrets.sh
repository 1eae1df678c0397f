#!/bin/sh
# Puts what each process may know into the vault, at secret/taskman/<process>, and makes a policy by the same name that
# can read that and nothing else. Usage: put-secrets.sh FOLDER, with a folder for each process in it.
set -eu
folder=$1
BAO_TOKEN=$(cat "${TOKEN_FILE:-/run/secrets/openbao}")
export BAO_TOKEN
for path in "$folder"/*/; do
    process=$(basename "$path")
    set --
    for file in "$path"*; do
        set -- "$@" "$(basename "$file")=@$file" # read from the file, so that it stands in no command line
    done
    bao kv put -mount=secret "taskman/$process" "$@" >/dev/null
    printf 'path "secret/data/taskman/%s" { capabilities = ["read"] }\n' "$process" |
        bao policy write "taskman-$process" - >/dev/null
    echo "secret/taskman/$process"
done
