#!/bin/sh
# Installs one image's closure into an empty folder: `build.sh IMAGE PREFIX`, from any folder. The Dockerfile runs it, and
# so does tests/deploy/test_images.py. It needs a Python with pip (PYTHON names another one than python3) and whatever
# index pip is configured for; nothing else is asked for or left behind.
#
# PREFIX becomes a virtual environment without pip and without build tools. Third-party packages come from the image's
# lock and are checked against its hashes; the members are built from this tree with build.lock, which stays outside.
set -eu

if [ "$#" -ne 2 ]; then
    echo "usage: build.sh IMAGE PREFIX" >&2
    exit 64
fi
image=$1
prefix=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
python=${PYTHON:-python3}

row=$(grep "^$image | " "$here/images.txt") || {
    echo "build.sh: no image '$image'; there are:" >&2
    sed -n 's/^\([a-z-]*\) | .*/  \1/p' "$here/images.txt" >&2
    exit 64
}
field() { printf '%s\n' "$row" | awk -F ' \\| ' -v "n=$1" '{ print $n }'; }
lock=$root/requirements/$(field 2).lock
members=$(field 3 | tr ',' ' ')
runs=$(field 5)

if [ -e "$prefix" ] && [ -n "$(ls -A "$prefix")" ]; then
    echo "build.sh: $prefix is not empty" >&2
    exit 73
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT INT TERM

pip="$python -m pip --disable-pip-version-check --no-input"

# The members as wheels, by a backend of exactly these versions, in an environment that is thrown away.
"$python" -I -m venv --without-pip "$scratch/tools"
$pip --python "$scratch/tools/bin/python" install --quiet --require-hashes --no-compile -r "$root/requirements/build.lock"
set --
for member in $members; do
    set -- "$@" "$root/$member"
done
$pip --python "$scratch/tools/bin/python" wheel --quiet --no-build-isolation --no-deps --no-index \
    --wheel-dir "$scratch/wheels" "$@"

"$python" -I -m venv --without-pip "$prefix"
$pip --python "$prefix/bin/python" install --quiet --require-hashes --no-compile --only-binary :all: -r "$lock"
$pip --python "$prefix/bin/python" install --quiet --no-index --no-deps --no-compile "$scratch"/wheels/*.whl

# Bytecode is made now, because nothing may be written later, and never compared with the sources again.
"$prefix/bin/python" -I -m compileall -q -j 0 --invalidation-mode unchecked-hash "$prefix/lib"

case $runs in
"python -m "*) command="\"\$here/python\" -IB ${runs#python }" ;;
*) command="\"\$here/python\" -IB \"\$here/${runs%% *}\"${runs#"${runs%% *}"}" ;;
esac
cat >"$prefix/bin/entrypoint" <<END
#!/bin/sh
here=\$(dirname -- "\$0")
exec $command "\$@"
END
chmod 755 "$prefix/bin/entrypoint"
rm -f "$prefix"/bin/[Aa]ctivate*
