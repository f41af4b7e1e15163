#!/usr/bin/env bash
# Asks a real `dsmc` for all that cinderfs only assumes of it, and records what it says.
#
#   tests/tsm-conformance.sh [options] FOLDER
#
#   FOLDER            a new folder, in a file system whose files this node may back up; all
#                     test files are made below it, and so all objects on the server
#   --dsmc PATH       the client; without it, the one in PATH
#   --option VALUE    an option for every call, such as --option -se=SERVER; may be repeated
#   --image DEVICE    a block device of at most some megabytes, whose image is backed up and
#                     deleted as well (as root; the device is only read)
#   --output FILE     the record; without it, tsm-conformance-<date>.txt in the working folder
#   --yes             begin without asking
#
# It backs up small files of its own, restores them beside, deletes them from the server, and
# removes FOLDER. It reads and changes nothing else: every object that it names lies below
# FOLDER, or is a link of its own to DEVICE. A password is never asked for and never given:
# the client must have one (passwordaccess generate). What the client says is recorded as it
# is: look through the record for names that you want to keep to yourself before you send it.
#
# It ends with 0 when all was asked and the server holds nothing of it any more.
set -uo pipefail
export LC_ALL=C LANG=C TZ=UTC

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
    exit 2
}

dsmc=dsmc options=() image='' output='' yes='' folder=''
while (($#)); do
    case $1 in
        --dsmc) dsmc=${2:?}; shift ;;
        --option) options+=("${2:?}"); shift ;;
        --image) image=${2:?}; shift ;;
        --output) output=${2:?}; shift ;;
        --yes) yes=1 ;;
        -*) usage ;;
        *) [[ -z $folder ]] || usage; folder=$1 ;;
    esac
    shift
done
[[ -n $folder ]] || usage
[[ ! -e $folder ]] || { echo "$folder is there already: name a new folder" >&2; exit 2; }
command -v "$dsmc" >/dev/null || { echo "$dsmc cannot be found" >&2; exit 2; }
dsmc=$(command -v "$dsmc")
[[ $folder = /* ]] || folder=$PWD/$folder
case $folder in
    *[\ \*\?\[\]{}\"\']*) echo "$folder: take a path without spaces and patterns" >&2; exit 2 ;;
esac
: "${output:=$PWD/tsm-conformance-$(date +%Y%m%d-%H%M%S).txt}"
if [[ -z $yes ]]; then
    read -r -p "back up, restore and delete test files below $folder? [y/N] " answer
    [[ $answer = [yY]* ]] || exit 1
fi

umask 077
mkdir -p "$folder/source/deep" "$folder/back" "$folder/log" || exit 1
export DSM_LOG=$folder/log
formats=(-dateformat=3 -timeformat=1 -numberformat=1)
id=14557733-15c7-5293-a026-e4123a3b50c9
file=$folder/source/backup-$id
other=$folder/source/deep/backup-24557733-15c7-5293-a026-e4123a3b50c9
link=/dev/backup-$id
failures=0
space=$(stat -c %m "$folder")

say() { printf '%s\n' "$@" >>"$output"; }

# One question: what is assumed, and the arguments. Streams are recorded apart, for errors
# come on either. Nobody answers what it asks.
ask() {
    local assumed=$1 code
    shift
    say "" "=== $assumed" "--- dsmc $*"
    timeout -k 5 "${CONFORMANCE_TIMEOUT:-900}" "$dsmc" "$@" "${options[@]}" </dev/null \
        >"$folder/out" 2>"$folder/err"
    code=$?
    say "--- exit code $code; standard output:"
    # With ends of lines and odd spaces to be seen.
    sed -n l100000 <"$folder/out" >>"$output"
    say "--- standard error:"
    sed -n l100000 <"$folder/err" >>"$output"
    echo "$assumed: exit code $code"
    return "$code"
}

# What must have come of it, or the record is of little use.
expect() {
    local what=$1
    shift
    if "$@"; then
        say "--- as expected: $what"
    else
        say "--- NOT as expected: $what"
        echo "not as expected: $what" >&2
        failures=$((failures + 1))
    fi
}

gone() {
    "$dsmc" query backup -inactive -subdir=yes "${options[@]}" "$folder/*" </dev/null >"$folder/out" 2>&1
    # A question that has failed tells nothing.
    grep -qE '^ANS(1092|1302|1345|4000)[A-Z]' "$folder/out" &&
        ! grep -E '^ANS[0-9]{4}[ES]' "$folder/out" | grep -qvE '^ANS(1302|1345|4000)' &&
        ! grep -q "$folder/source/" "$folder/out"
}

clean_up() {
    trap - EXIT INT TERM
    for path in "$file" "$other"; do
        "$dsmc" delete backup -noprompt -objtype=file -deltype=all "${options[@]}" "$path" </dev/null >/dev/null 2>&1
    done
    if [[ -n $image ]]; then
        "$dsmc" delete backup -noprompt -objtype=image -deltype=all "${options[@]}" "$link" </dev/null >/dev/null 2>&1
        rm -f "$link"
    fi
    if ! gone; then
        echo "the server still holds files below $folder: delete them with" >&2
        echo "  dsmc delete backup -subdir=yes -deltype=all '$folder/*'" >&2
        failures=$((failures + 1))
    fi
    rm -rf "$folder"
    echo "recorded in $output"
    exit $((failures > 0))
}
trap clean_up EXIT
trap 'exit 1' INT TERM

say "what $dsmc says, recorded by cinderfs's tests/tsm-conformance.sh"
say "kernel: $(uname -sr); user: $(id -u)"
# It can be compressed: what size is told of it then?
{ head -c 1000000 /dev/urandom; head -c 2000000 /dev/zero; } >"$file"
head -c 5000 /dev/urandom >"$other"

ask "nothing is there yet: what is said, and the code" query backup "${formats[@]}" -inactive -filesonly -scrollprompt=no -subdir=no "$file"
ask "selective of one file" selective -filesonly -compression=yes "$file"
expect "it is sent" grep -q "backed up:  *1" "$folder/out"
ask "Cinder's form of it" backup -quiet -compression=no "$other"
sleep 2
ask "the same file once more: a second version" selective -filesonly -compression=no "$file"
ask "a row, with versions that are inactive" query backup "${formats[@]}" -inactive -filesonly -scrollprompt=no -subdir=no "$file"
expect "its size is that of the file, compressed or not" grep -q "3,000,000" "$folder/out"
expect "a row ends in A and the path" grep -Eq "[[:space:]]A[[:space:]]+$file" "$folder/out"
ask "the same with -detail" query backup "${formats[@]}" -inactive -filesonly -detail -scrollprompt=no "$file"
ask "the same without formats" query backup -inactive -filesonly "$file"
ask "only the active version" query backup "${formats[@]}" -filesonly "$file"
ask "a pattern, folders below included (-subdir=yes)" query backup "${formats[@]}" -inactive -filesonly -scrollprompt=no -subdir=yes "$folder/source/backup-*"
expect "both files are found" test "$(grep -c "/backup-[12]4557733" "$folder/out")" -ge 2
ask "the same with the file space pinned" query backup "${formats[@]}" -inactive "{$space}${folder#"${space%/}"}/source/backup-*"
ask "a long name: does its row wrap?" query backup "${formats[@]}" -inactive -subdir=yes "$folder/*"
ask "an option that nobody knows" query backup -nosuchoption "$file"
ask "a server that nobody knows" query backup -se=NOSUCHSERVER "$file"

# Is it written from its beginning to its end, or does it have its size at once?
(
    last=
    for ((look = 0; look < 3000; look++)); do
        now=$(stat -c '%i %s %b' "$folder/back/one" 2>/dev/null) && [[ $now != "$last" ]] && echo "inode size blocks: $now" && last=$now
        sleep 0.02
    done
) >"$folder/growth" &
watcher=$!
ask "restore to another file" restore "${formats[@]}" -replace=yes -latest -subdir=no "$file" "$folder/back/one"
sleep 0.3
kill "$watcher" 2>/dev/null
wait "$watcher" 2>/dev/null
say "--- how the file has grown:"
cat "$folder/growth" >>"$output"
expect "the same bytes" cmp -s "$file" "$folder/back/one"
CONFORMANCE_TIMEOUT=${PROMPT_TIMEOUT:-20} ask "restore over a file that is there, without -replace: a prompt without a terminal" restore "${formats[@]}" -latest "$file" "$folder/back/one"
ask "restore of what is not there" restore "${formats[@]}" -replace=yes "$folder/source/nothing" "$folder/back/two"
rm -f "$file"
ask "an incremental backup finds it gone" incremental -subdir=no "$folder/source/"
ask "it is inactive now" query backup "${formats[@]}" -inactive -filesonly "$file"
ask "restore of what is inactive" restore "${formats[@]}" -replace=yes -latest -subdir=no "$file" "$folder/back/three"
expect "it is there" test -s "$folder/back/three"
ask "what is being sent is not there" selective -filesonly "$file"
CONFORMANCE_TIMEOUT=${PROMPT_TIMEOUT:-20} ask "delete without -noprompt: a prompt without a terminal" delete backup "${formats[@]}" -objtype=file -deltype=all "$file"
ask "delete of all versions (or what is said to who may not)" delete backup "${formats[@]}" -noprompt -objtype=file -deltype=all -subdir=no "$file"
ask "nothing is left of it" query backup "${formats[@]}" -inactive -filesonly "$file"
ask "delete of what is gone" delete backup "${formats[@]}" -noprompt -objtype=file -deltype=all -subdir=no "$file"
ask "every image (without a name)" query image "${formats[@]}" -inactive -scrollprompt=no
ask "an image that is not there" query image "${formats[@]}" -inactive "$link"
if [[ -n $image ]]; then
    ln "$(readlink -f "$image")" "$link" || failures=$((failures + 1))
    ask "backup of an image" backup image -compression=yes "$link"
    ask "the row of an image" query image "${formats[@]}" -inactive -scrollprompt=no "$link"
    ask "restore of an image into a file" restore image "${formats[@]}" -noprompt -imagetofile "$link" "$folder/back/image"
    expect "the same bytes" cmp -s "$image" "$folder/back/image"
    ask "delete of an image" delete backup "${formats[@]}" -noprompt -objtype=image -deltype=all "$link"
    ask "nothing is left of the image" query image "${formats[@]}" -inactive "$link"
fi
say "" "=== dsmerror.log"
cat "$folder"/log/dsmerror.log >>"$output" 2>/dev/null
exit 0
