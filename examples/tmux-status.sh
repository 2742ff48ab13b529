#!/bin/sh
# Shows the running sessions in the status pane, anew every few seconds. Ctrl-C ends it.
# Usage: tmux-status.sh [SECONDS]

seconds=${1:-2}
while :; do
    shown=$(aider-guard status 2>&1)
    # The cursor goes home and the lines are drawn over the old ones, without flicker; what is below is erased.
    printf '\033[H%s\033[K\n\033[J' "$(printf '%s' "$shown" | sed "s/\$/$(printf '\033')[K/")"
    sleep "$seconds" || exit
done
