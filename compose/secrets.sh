#!/bin/sh
# Makes the secrets that docker-compose.yml names, each in a file of its own; those that are there stay as they are.
#   sh compose/secrets.sh [FOLDER]        default: SECRETS_DIR, else `secrets` beside docker-compose.yml
# The folder is its owner's alone. The files in it can be read by all, since containers see them under another user.
set -eu
folder=${1:-${SECRETS_DIR:-$(dirname "$0")/../secrets}}
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

random() { LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom | head -c "$1"; }
hex() { LC_ALL=C tr -dc '0-9a-f' </dev/urandom | head -c "$1"; }
keep() {  # NAME CONTENT
    [ -s "$1" ] && return
    printf '%s\n' "$2" >".$1"
    chmod 444 ".$1"
    mv ".$1" "$1"
    echo "made $1"
}

keep postgres_password "$(random 32)"
keep database_url "postgresql://regraft:$(cat postgres_password)@postgres:5432/regraft"
keep redis_conf "requirepass $(random 32)"
keep redis_url "redis://:$(sed -n 's/^requirepass //p' redis_conf)@redis:6379/0"
keep api_key "rgk_$(hex 12)_$(random 32)"
keep metrics_key "rgk_$(hex 12)_$(random 32)"
keep aws_credentials "[default]
aws_access_key_id = regraft
aws_secret_access_key = $(random 40)"
keep grafana_password "$(random 20)"
