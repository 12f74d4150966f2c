#!/bin/sh
# test_soak.sh BUILD: the steps of a soak are those that it says, their programs are made in the folder BUILD, one step
# can be run alone, and one that fails holds up no other and is named at the end.
build=$1
soak=$(dirname "$0")/soak.sh
here=$(mktemp -d) || exit 1
trap 'rm -rf "$here"' EXIT
fail() {
	echo "FAIL: $*"
	[ ! -e "$here/out" ] || tail -n 20 "$here/out"
	exit 1
}

sh "$soak" --list >"$here/list" || fail "--list"
ninja -C "$build" -t targets all >"$here/targets" || fail "no targets in $build"
for target in $(sed -n 's/^  needs //p' "$here/list") $(grep -o 'build/[a-z][a-zA-Z0-9_/.-]*' "$here/list" |
	grep -v -e '^build/soak/' -e '^build/quire$' | sed 's,^build/,,' | sort -u); do
	grep -q "^$target: " "$here/targets" || fail "nothing makes $target"
done
for program in $(grep -o '\(tools\|tests\)/[a-z_/]*\.\(py\|sh\)' "$here/list" | sort -u); do
	[ -e "$(dirname "$0")/../../$program" ] || fail "there is no $program"
done

# A tree where only ./dev fails, and each step does nothing else.
mkdir -p "$here/tree/tests/soak" "$here/bin"
cp "$soak" "$here/tree/tests/soak/soak.sh"
for name in ninja meson python3; do
	printf '#!/bin/sh\n' >"$here/bin/$name"
done
printf '#!/bin/sh\nexit 1\n' >"$here/tree/dev"
chmod +x "$here/bin"/* "$here/tree/dev"
fake() {
	PATH=$here/bin:$PATH sh "$here/tree/tests/soak/soak.sh" "$@" >"$here/out" 2>&1
}
expected=$(sed -n 's,^\([0-9]*\) \./dev.*,\1,p' "$here/list" | tr '\n' ' ')
count=$(grep -c '^[0-9]' "$here/list")
! fake || fail "steps that fail are no failure"
grep -q "^soak: failed: ${expected}of $count steps, in [0-9]* s\$" "$here/out" || fail "not: failed: ${expected}of $count"
grep -q "^----- soak: step $count of $count, " "$here/out" || fail "the last step was not run"
fake --only 1 || fail "--only 1"
grep -q "^soak: passed, step 1 of $count steps, in [0-9]* s\$" "$here/out" || fail "--only 1 says"
[ "$(grep -c '^----- ' "$here/out")" = 1 ] || fail "--only 1 runs others"
! fake --only $((count + 1)) || fail "--only of no step passes"
grep -q "^soak: there is no step '$((count + 1))' of $count" "$here/out" || fail "--only of no step says"
