#!/bin/sh
# Derives from the session's credential what the front door's web server reads, and fails without a credential.
# Runs as root before the web server starts. No secret is ever an argument of a program: only builtins of the
# shell see them, and openssl's standard input.
set -eu
umask 077

credential=/etc/labwright/credential
state=/run/labwright

# A last line without its end is a file that is still being written: read fails, and systemd tries again.
IFS= read -r line < "$credential"
user=${line%%:*}
password=${line#*:}
if [ "$user" = "$line" ] || [ -z "$user" ] || [ -z "$password" ]; then
    echo "front-door: $credential must be one line USER:PASSWORD" >&2
    exit 1
fi

install -d -o root -g labwright-web -m 0750 "$state"
hash=$(printf '%s\n' "$password" | openssl passwd -6 -stdin)
token=$(openssl rand -hex 32)
suffix=$(openssl rand -hex 4)

# Written aside and renamed, so that the web server never reads half a file.
publish() {
    cat > "$state/$1.new"
    chgrp labwright-web "$state/$1.new"
    chmod 0640 "$state/$1.new"
    mv "$state/$1.new" "$state/$1"
}

publish htpasswd << END
$user:$hash
END

# Safari sends no Basic credentials when it opens a WebSocket, but it sends cookies: whoever has shown the credential
# once gets one. Its name differs from machine to machine, because browsers keep cookies per host, not per port.
publish cookie.conf << END
map \$cookie_labwright_$suffix \$front_door_realm {
    default Labwright;
    $token off;
}
map \$front_door_realm \$front_door_cookie {
    default "labwright_$suffix=$token; Path=/; HttpOnly; SameSite=Strict\$front_door_secure";
    off "";
}
END

# A kernel without IPv6 would refuse the second line.
{
    echo "listen @PORT@ default_server;"
    if [ -e /proc/net/if_inet6 ]; then
        echo "listen [::]:@PORT@ default_server ipv6only=on;"
    fi
} | publish listen.conf
