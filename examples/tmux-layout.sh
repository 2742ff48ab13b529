#!/bin/sh
# Starts a guarded session with a status pane of seven lines below it, in tmux.
# Usage: tmux-layout.sh [AIDER ARGS]
#
# Inside tmux it splits the current pane; outside it starts tmux. The status pane ends with the session.

here=$(cd "$(dirname "$0")" && pwd) || exit

if [ -z "$TMUX" ]; then
    exec tmux new-session sh "$here/tmux-layout.sh" "$@"
fi

pane=$(tmux split-window -v -l 7 -d -P -F '#{pane_id}' sh "$here/tmux-status.sh") || exit
aider-guard -- "$@"
status=$?
tmux kill-pane -t "$pane" 2>/dev/null # it may have been closed by hand
exit "$status"
