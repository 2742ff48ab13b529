# Makes `aider` start a guarded session. Put this line into ~/.bashrc, ~/.zshrc or ~/.profile:
#
#     . /path/to/alias.sh
#
# Everything typed after `aider` still goes to Aider. Aider without the guard: `command aider`.
# Settings of the guard go before the two dashes, for example: alias aider='aider-guard --num-ctx 16384 --'
# In fish the same line reads: alias aider 'aider-guard --'

alias aider='aider-guard --'
