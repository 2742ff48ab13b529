#!/bin/sh
# What the status pane shows: the sessions that run, anew every few seconds. Ctrl-C ends it.
# Usage: tmux-status.sh [SECONDS]

seconds=${1:-2}
while :; do
    shown=$(aider-guard status 2>&1)
    # Home, the lines, and what was below them erased: nothing flickers.
    printf '\033[H%s\033[K\n\033[J' "$(printf '%s' "$shown" | sed "s/\$/$(printf '\033')[K/")"
    sleep "$seconds" || exit
done
