#!/bin/bash
# The password of Kibana; a user for Filebeat that can only add; logs are dropped after 30 days.
set -euo pipefail
call() {
    curl --silent --show-error --fail --user "elastic:$(cat /run/secrets/elastic)" \
        --header 'Content-Type: application/json' --request "$1" --data @- "http://elasticsearch:9200/$2" >/dev/null
}
call POST _security/user/kibana_system/_password <<<"{\"password\": \"$(cat /run/secrets/kibana)\"}"
call PUT _ilm/policy/taskman-logs <<'JSON'
{"policy": {"phases": {
  "hot": {"actions": {"rollover": {"max_age": "1d", "max_primary_shard_size": "10gb"}}},
  "delete": {"min_age": "30d", "actions": {"delete": {}}}}}}
JSON
call PUT _index_template/taskman-logs <<'JSON'
{"index_patterns": ["taskman-logs"], "data_stream": {}, "priority": 500, "template": {
  "settings": {"index.lifecycle.name": "taskman-logs", "number_of_replicas": 0, "index.mapping.total_fields.limit": 2000},
  "mappings": {"properties": {
    "@timestamp": {"type": "date"}, "request_id": {"type": "keyword"}, "trace_id": {"type": "keyword"},
    "service": {"type": "keyword"}, "event": {"type": "keyword"}, "level": {"type": "keyword"},
    "route": {"type": "keyword"}, "principal": {"type": "keyword"}, "status": {"type": "integer"}, "ms": {"type": "float"}}}}}
JSON
call PUT _security/role/taskman_filebeat <<'JSON'
{"cluster": ["monitor"], "indices": [{"names": ["taskman-logs"], "privileges": ["auto_configure", "create_doc"]}]}
JSON
call PUT _security/user/filebeat <<<"{\"password\": \"$(cat /run/secrets/filebeat)\", \"roles\": [\"taskman_filebeat\"]}"
