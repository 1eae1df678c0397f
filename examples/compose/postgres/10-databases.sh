#!/bin/sh
# A database and a role for each service named in SERVICES, when a database server starts with an empty volume. A role
# owns its database and may do nothing outside it. Passwords are files; run again, this gives the roles what the files
# hold by then, so that passwords can be rotated.
set -eu
folder=${PASSWORDS:-/run/secrets}
sql() {
    psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" "$@"
}
for service in $SERVICES; do
    sql --dbname postgres --set role="taskman_$service" --set file="$folder/database_$service" <<'SQL'
\set password `cat :'file'`
SELECT format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', :'role')
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
ALTER ROLE :"role" PASSWORD :'password';
SELECT format('CREATE DATABASE %I OWNER %I', :'role', :'role')
    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'role') \gexec
REVOKE ALL ON DATABASE :"role" FROM PUBLIC;
SQL
    sql --dbname "taskman_$service" --set role="taskman_$service" --set extensions="${EXTENSIONS:-}" <<'SQL'
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER SCHEMA public OWNER TO :"role";
SELECT format('CREATE EXTENSION IF NOT EXISTS %I', name)
    FROM unnest(string_to_array(:'extensions', ' ')) AS name WHERE name <> '' \gexec
SQL
done
# The exporter of metrics only looks.
sql --dbname postgres --set file="$folder/monitoring" <<'SQL'
\set password `cat :'file'`
SELECT 'CREATE ROLE monitoring LOGIN CONNECTION LIMIT 5' WHERE NOT EXISTS
    (SELECT FROM pg_roles WHERE rolname = 'monitoring') \gexec
ALTER ROLE monitoring PASSWORD :'password';
GRANT pg_monitor TO monitoring;
REVOKE CONNECT ON DATABASE postgres FROM PUBLIC;
GRANT CONNECT ON DATABASE postgres TO monitoring;
SQL
