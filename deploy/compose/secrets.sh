#!/usr/bin/env bash
# Makes the files in compose/secrets that compose.yaml gives to the services. Those that are there stay as they are. Passwords among the services
# are made up; NAMECOACH_TOKEN and BLN_PASSWORD (or BLN_ACCESS_TOKEN, as BLN_SIGN_IN in .env says) come from the environment, else it asks for them.
set -euo pipefail
cd "$(dirname "$0")"

# The files are open and their folder is closed: a service reads its file, which is mounted into it, as a user of its own, and nobody else
# on this machine comes near. (Compose mounts files with the permissions that they have.)
mkdir -p secrets
chmod 700 secrets

made=()
put() { # NAME VALUE
	printf '%s' "$2" >"secrets/.$1"
	chmod 444 "secrets/.$1"
	mv "secrets/.$1" "secrets/$1"
	made+=("$1")
}
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
ask() { # NAME VARIABLE QUESTION
	local value=${!2:-}
	[ ! -s "secrets/$1" ] || return 0
	if [ -z "$value" ] && [ -t 0 ]; then
		read -rsp "$3: " value
		echo
	fi
	if [ -z "$value" ]; then
		echo "secrets.sh: $2 is not set. It is: $3. Set it, or run this on a terminal to be asked." >&2
		exit 2
	fi
	put "$1" "$value"
}

sign_in=$(sed -n "s/^BLN_SIGN_IN=[\"']\{0,1\}\([^\"' #]*\).*/\1/p" ../.env 2>/dev/null | tail -n 1) || true # there may be no .env
ask namecoach_token NAMECOACH_TOKEN "the access token of your NameCoach account"
case ${sign_in:=bln_password} in
bln_password) ask bln_password BLN_PASSWORD "the password of the administrator in BLN (BLN_USERNAME; with an access token set BLN_SIGN_IN in .env)" ;;
bln_access_token) ask bln_access_token BLN_ACCESS_TOKEN "an access token of the administrator in BLN" ;;
*)
	echo "secrets.sh: BLN_SIGN_IN is $sign_in in .env: it can be bln_password or bln_access_token." >&2
	exit 2
	;;
esac
if [ ! -s secrets/postgres_password ]; then
	put postgres_password "$(random)"
	rm -f secrets/database_url # it has the password in it
fi
# Without TLS: between the two there is a network of this machine that nobody else is on.
[ -s secrets/database_url ] || put database_url "postgres://namebridge:$(cat secrets/postgres_password)@postgres:5432/namebridge?sslmode=disable"
[ -s secrets/grafana_password ] || put grafana_password "$(random)"

if [ ${#made[@]} = 0 ]; then
	echo "compose/secrets: all there already"
else
	echo "compose/secrets: made ${made[*]}"
fi
