#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need bash
cat > t.bash <<'S'
set -m
echo "pipe: $(seq 100 | grep 7 | wc -l)"
false | true; echo "PIPESTATUS ${PIPESTATUS[*]}"
set -o pipefail; false | true; echo $?; set +o pipefail
sleep 1000 & j=$!; kill -STOP %1; while ! jobs -l | grep -q Stopped; do :; done; jobs | sed 's/  */ /g'; kill -TERM %1; while kill -0 $j 2>/dev/null; do :; done; wait $j 2>/dev/null; echo "wait $?"
(exit 3) & wait $!; echo $?
trap 'echo got USR1' USR1; kill -USR1 $$; trap - USR1
trap 'echo bye' EXIT
x=$(trap 'echo in subshell exit' EXIT; echo inner); echo "$x"
coproc C { while read -r l; do echo "<$l>"; done; }; echo hello >&"${C[1]}"; read -r r <&"${C[0]}"; echo "$r"; eval "exec ${C[1]}>&-"; wait
diff <(seq 3) <(seq 4); cat <<< "here string"
exec 5<>file; echo via five >&5; exec 5>&-; cat file
declare -A m=([a]=1 [b]=2); for k in a b; do echo "$k=${m[$k]}"; done
printf '%s\n' {1..3}{a,b} | paste -sd' '
[[ "abc123" =~ ([a-z]+)([0-9]+) ]] && echo "${BASH_REMATCH[@]}"
ulimit -n 64; ulimit -n; ( ulimit -f 1; head -c 4096 /dev/zero > big; echo "fsize $?" )
mapfile -t arr < <(seq 5); echo "${#arr[@]} ${arr[4]}"
f() { local a=$1; (( a <= 1 )) && { echo 1; return; }; echo $(( a * $(f $((a-1))) )); }; f 10
for i in 1 2 3 4 5 6 7 8; do (echo $((i*i))) & done | sort -n | paste -sd' '; wait
read -t 0.01 -r nothing < <(sleep 5); echo "read timeout $(($? > 128))"
kill -l 15; type -t cd; echo "$((2**62)) ${#work}" | cut -d' ' -f1
exec 3< <(echo fd three); read -r l <&3; echo "$l"
time -p true 2>/dev/null; bash -c 'kill -SEGV $$' 2>/dev/null; echo "segv $?"; (ulimit -c 0; bash -c 'exit 300'; echo $?)
S
bash t.bash 2>&1 | sed -E 's/line ([0-9]+): +[0-9]+ /line \1: /'
