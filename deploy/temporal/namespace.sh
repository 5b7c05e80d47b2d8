#!/bin/sh
# Registers TEMPORAL_NAMESPACE, and in it each argument, Name=Type, as a search attribute. Safe to run again.
set -eu

attempts=60
try() {
  until "$@"; do
    attempts=$((attempts - 1))
    [ "$attempts" -gt 0 ] || { echo "gave up on: $*" >&2; exit 1; }
    sleep 2
  done
}

namespace() {
  temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" >/dev/null 2>&1 ||
    temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention "$NAMESPACE_RETENTION"
}

# One by one: of several in one request, the server drops all if it knows any.
search_attributes() {
  for definition in "$@"; do
    temporal operator search-attribute create --namespace "$TEMPORAL_NAMESPACE" \
      --name "${definition%%=*}" --type "${definition#*=}" || return 1
  done
}

# Servers learn of new search attributes with a delay; until then, workers that set them would fail.
queryable() {
  query=""
  for definition in "$@"; do
    query="${query:+$query OR }${definition%%=*} IS NULL"
  done
  temporal workflow count --namespace "$TEMPORAL_NAMESPACE" --query "$query"
}

try temporal operator cluster health
try namespace
try search_attributes "$@"
try queryable "$@"
echo "namespace $TEMPORAL_NAMESPACE is ready: $*"
