#!/bin/sh
# Before the first start, after an upgrade, and once a month: settings, image, secrets, certificates. Passwords that exist
# are kept; certificates are good for 90 days and made anew.
# `./init.sh --rotate` makes new passwords as well; README.md says what has to follow.
set -eu
cd "$(dirname "$0")"
umask 077
if [ ! -e .env ]; then
    cp .env.example .env
    echo "wrote .env: look through it"
fi
# Not sourced: what is a value to Compose can be a command to a shell.
value() {
    sed -n "s/^$1=//p" .env | tail -n 1 | sed 's/^"\(.*\)"$/\1/'
}
docker compose build gateway
mkdir -p secrets
# In the image there is the Python that this machine need not have; as you, so that the files are yours.
run() {
    docker run --rm --network none --user "$(id -u):$(id -g)" \
        --volume "$PWD/secrets:/secrets" --volume "$PWD/init.py:/init.py:ro" --workdir /tmp "$@"
}
image="taskman-server:$(value TASKMAN_VERSION)"
TASKMAN_ADMIN_EMAIL=$(value TASKMAN_ADMIN_EMAIL) TASKMAN_SMTP_URL=$(value TASKMAN_SMTP_URL) \
    run --env TASKMAN_ADMIN_EMAIL --env TASKMAN_SMTP_URL --entrypoint python3 "$image" /init.py /secrets "$@"
# New certificates each time; the processes take them while they run. The authority's key stays here.
if [ -e secrets/authority/ca.crt ]; then
    run "$image" certs renew --certs /secrets/authority
else
    run "$image" certs init --certs /secrets/authority
fi
for process in authentication authorization users iam tasks audit notifications gateway; do
    for file in ca.crt "$process.crt" "$process.key"; do
        # A new file in the place of the old one: a process that reads it sees one or the other, never half.
        cp "secrets/authority/$file" "secrets/processes/$process/$file.partial"
        chmod 0444 "secrets/processes/$process/$file.partial"
        mv -f "secrets/processes/$process/$file.partial" "secrets/processes/$process/$file"
    done
done
chmod 0755 secrets/processes secrets/processes/*
echo "ready: docker compose up --detach"
