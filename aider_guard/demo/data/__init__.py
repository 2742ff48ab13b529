"""What the installer hands to pip, to cc and to Aider's Python."""
